"""Policy documents as people write them: one from code, TOML and JSON, and refused by name where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shipworthy.app.permissions import permissions_of
from shipworthy.app.policy_documents import PolicyDocument
from shipworthy.domain.policy import Action
from shipworthy.domain.scope import Scope
from shipworthy.errors import ConfigurationError
from shipworthy.rules.policies.statements import Statement

TOML = """
[[statements]]
id = "small-refunds"
effect = "allow"
actions = ["tool:refund"]
principals = { tenant = "acme" }
conditions = { "arguments.amount" = { "<=" = 50 }, "arguments.account" = "${user}" }

[[statements]]
id = "payments"
effect = "ask"
actions = ["tool:*"]
resources = ["label/payment"]
approvers = 2
among = ["mia", "leo"]
"""
STATEMENTS: list[dict[str, Any]] = [
    {
        "id": "small-refunds",
        "effect": "allow",
        "actions": ["tool:refund"],
        "principals": {"tenant": "acme"},
        "conditions": {"arguments.amount": {"<=": 50}, "arguments.account": "${user}"},
    },
    {
        "id": "payments",
        "effect": "ask",
        "actions": ["tool:*"],
        "resources": ["label/payment"],
        "approvers": 2,
        "among": ["mia", "leo"],
    },
]
REFUND = Action(
    kind="tool",
    name="refund",
    effect="once",
    arguments={"amount": 50, "account": "ada"},
    path=("support",),
    run_id="run_1",
    call_id="call_1",
)


def test_a_document_is_the_same_from_code_toml_and_json(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(TOML)
    (tmp_path / "policy.json").write_text(json.dumps({"statements": STATEMENTS}))
    documents = [
        PolicyDocument([Statement(**each) for each in STATEMENTS]),
        PolicyDocument(STATEMENTS),
        PolicyDocument.load(tmp_path / "policy.toml"),
        PolicyDocument.load(str(tmp_path / "policy.json")),
        PolicyDocument.loads(TOML),
    ]

    assert len({each.version for each in documents}) == 1
    for each in documents:
        assert permissions_of(each) is each
        assert each.decide(Scope("acme", "ada"), REFUND).rule == "PolicyDocument:small-refunds"


def test_the_version_changes_with_any_statement_and_with_the_documents_own() -> None:
    plain = PolicyDocument(STATEMENTS).version
    stricter = [STATEMENTS[0] | {"conditions": {"arguments.amount": {"<=": 49}}}, STATEMENTS[1]]

    assert PolicyDocument(stricter).version != plain
    assert PolicyDocument(STATEMENTS, version="7").version == f"7+{plain}"


def test_a_statement_without_an_id_has_one_that_stays_with_what_it_says() -> None:
    nameless = {"effect": "allow", "actions": ["*"]}
    rule = PolicyDocument([nameless]).decide(Scope("acme"), REFUND).rule

    assert rule.startswith("PolicyDocument:#")
    assert PolicyDocument([*STATEMENTS[:1], nameless]).decide(Scope("acme"), REFUND).rule == rule
    other = PolicyDocument([nameless | {"reason": "why not"}]).decide(Scope("acme"), REFUND)
    assert other.rule != rule


def test_an_explanation_says_what_kept_each_statement_from_matching() -> None:
    found = PolicyDocument(STATEMENTS).explain(Scope("acme", "bob"), REFUND)

    assert (found.decision.rule, found.decided_by) == ("PolicyDocument:default", ())
    assert [each.because for each in found.considered] == [
        "arguments.account == '${user}': is not so",
        "it is about one of ['label/payment']: is not so",
    ]


def of(**fields: Any) -> dict[str, Any]:
    return {"id": "mine", "effect": "allow", "actions": ["tool:refund"]} | fields


def under(**conditions: Any) -> dict[str, Any]:
    return of(conditions={name.replace("__", "."): value for name, value in conditions.items()})


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ({"effect": "allow"}, "no actions"),
        ({"actions": ["*"]}, "no effect"),
        (of(efect="deny"), "'efect' is unknown"),
        (of(effect="Allow"), "effect: 'Allow' is unknown"),
        (of(effect=None), "effect: None is unknown"),
        (of(actions=[]), "actions: there are none"),
        (of(actions="tool:refund"), "actions: a str is no list"),
        (of(actions=["refund"]), "'refund' is no action"),
        (of(actions=["tool:"]), "'tool:' is no action"),
        (of(actions=["tools:*"]), "'tools:\\*' is no action"),
        (of(actions=["*:refund"]), "'\\*:refund' is no action"),
        (of(actions=["tool:**"]), "'tool:\\*\\*' has \\*\\*"),
        (of(actions=["tool:${user}"]), "has a variable"),
        (of(actions=[7]), "7 is a int, not a text"),
        (of(resources=["payment"]), "resources: 'payment' is no resource"),
        (of(resources=["lable/payment"]), "is no resource"),
        (of(principals="ada"), "principals: a str names nobody"),
        (of(principals={"usr": "ada"}), "principals: 'usr' is unknown"),
        (of(principals={"user": []}), "principals, user: it names nobody"),
        (of(principals={"user": 7}), "principals, user: a int is no list"),
        (of(principals=[{}]), "names nobody"),
        (of(conditions=[]), "conditions: a list is no mapping"),
        (under(amount=50), "conditions: 'amount' is unknown"),
        (under(arguments__=50), "'arguments.' is unknown"),
        (under(arguments__a__={"<": 1}), "'arguments.a.' is unknown"),
        (under(arguments__amount={"=<": 50}), "arguments.amount: '=<' is no operator here"),
        (under(arguments__amount={}), "arguments.amount: it has no operator"),
        (under(arguments__amount=[50]), "arguments.amount: a list is no condition"),
        (under(arguments__amount={"<=": "50"}), "'50' is not a finite number"),
        (under(arguments__amount={"<=": True}), "True is not a finite number"),
        (under(arguments__amount={"<": float("nan")}), "nan is not a finite number"),
        (under(arguments__amount={"==": None}), "None is nothing to compare with"),
        (under(arguments__amount=None), "None is nothing to compare with"),
        (under(arguments__amount={"in": 50}), "50 is not a list"),
        (under(arguments__amount={"in": []}), "is not a list with something in it"),
        (under(arguments__amount={"exists": 1}), "1 is neither true nor false"),
        (under(arguments__to={"matches": "a**"}), "'a\\*\\*' has \\*\\*"),
        (under(arguments__to={"matches": ""}), "is blank"),
        (under(arguments__to="${usr}"), "has a variable that there is not"),
        (under(arguments__to="${user"), "has a variable that there is not"),
        (under(user=7), "7 is never equal to it"),
        (under(user={"<": "b"}), "'<' is no operator here"),
        (under(effect="reads"), "'reads' is never equal to it"),
        (under(labels="payment"), "labels: '==' is no operator here"),
        (under(returned__look={">": 1.5}), "1.5 is never equal to it"),
        (under(returned__look={">": True}), "True is never equal to it"),
        (under(returned__=1), "'returned.' is unknown"),
        (under(time="09:00"), "time: it says nothing of the time"),
        (under(time={"zone": "UTC"}), "time: it says nothing of the time"),
        (under(time={"hour": "09:00-10:00"}), "time: 'hour' is unknown"),
        (under(time={"hours": "9-17"}), "time, hours: '9-17' is no span"),
        (under(time={"hours": "09:00-09:00"}), "is no span"),
        (under(time={"hours": "25:00-26:00"}), "is no span"),
        (under(time={"hours": []}), "is no span"),
        (
            under(time={"hours": "09:00-10:00", "zone": "Mars/Olympus"}),
            "time, zone: 'Mars/Olympus' is not known",
        ),
        (under(time={"weekdays": ["monday"]}), "is no list of weekdays"),
        (under(time={"after": "soon"}), "time, after: 'soon' is no date"),
        (of(approvers=2), "approvers and among go with an ask"),
        (of(effect="deny", among=["mia"]), "approvers and among go with an ask"),
        (of(effect="ask", approvers=0), "approvers"),
        (of(effect="ask", approvers=True), "approvers"),
        (of(effect="ask", approvers="2"), "approvers"),
        (of(effect="ask", among="mia"), "among: 'mia' is no list"),
        (of(effect="ask", among=["mia", "mia"], approvers=2), "its among has 1 people"),
        (of(reason=7), "its reason is no valid text"),
        (of(tell=["no"]), "its tell is no valid text"),
        (of(id=7), "id: 7 is no id"),
        (of(id=" x"), "id: ' x' is no id"),
        (of(id="a & b"), "id: 'a & b' is no id"),
        ("allow", "a str is no statement"),
    ],
)
def test_a_wrong_statement_is_refused_with_its_number_the_key_and_a_fix(statement: Any, names: str) -> None:
    with pytest.raises(ConfigurationError, match=names) as refused:
        PolicyDocument([STATEMENTS[0], statement])
    assert refused.value.what.startswith("Statement 2")
    assert refused.value.fix


@pytest.mark.parametrize("statements", [None, {}, "x", [], ()])
def test_a_document_has_statements(statements: Any) -> None:
    with pytest.raises(ConfigurationError):
        PolicyDocument(statements)


def test_two_statements_with_one_id_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="Statement 3, id: 'payments' is that of statement 2 too"):
        PolicyDocument([*STATEMENTS, STATEMENTS[1]])
    nameless = {"effect": "allow", "actions": ["*"]}
    with pytest.raises(ConfigurationError, match="that of statement 1 too"):
        PolicyDocument([nameless, nameless])


@pytest.mark.parametrize(
    ("text", "format", "names"),
    [
        ("[[statement]]", "toml", "'statement' is unknown"),
        ("statements = 7", "toml", "a int is no list"),
        ("version = 7\n" + TOML, "toml", "version: 7 is no text"),
        ("statements = [", "toml", "no valid TOML"),
        ("a = 1\na = 2", "toml", "no valid TOML"),
        ("[]", "json", "is no table"),
        ("{", "json", "no valid JSON"),
        ('{"statements": [], "statements": []}', "json", "written twice: 'statements'"),
        ('{"statements": [{"effect": "deny", "effect": "allow"}]}', "json", "written twice: 'effect'"),
        ('{"statements": NaN}', "json", "NaN is no JSON"),
        ("[" * 200_000, "json", "no valid JSON"),
        ("{}", "yaml", "format='yaml' is unknown"),
    ],
)
def test_what_is_no_document_is_refused(text: str, format: Any, names: str) -> None:
    with pytest.raises(ConfigurationError, match=names):
        PolicyDocument.loads(text, format)


def test_a_file_that_is_no_document_is_named(tmp_path: Path) -> None:
    for name, content in (("a.yaml", b""), ("b.toml", b"\xff"), ("c.toml", b"x = 1"), ("d.json", b"{}")):
        (tmp_path / name).write_bytes(content)
    for name in ("a.yaml", "b.toml", "c.toml", "d.json", "missing.toml"):
        with pytest.raises(ConfigurationError, match=name):
            PolicyDocument.load(tmp_path / name)


def test_what_is_changed_after_a_document_was_made_changes_nothing() -> None:
    mine = of(conditions={"arguments.amount": {"in": [50]}}, among=[])
    document = PolicyDocument([mine])
    mine["conditions"]["arguments.amount"]["in"].append(99)
    mine["actions"].append("*")

    assert document.decide(Scope("acme"), REFUND).ruling == "allow"
    other = Action(**{name: getattr(REFUND, name) for name in REFUND.__struct_fields__} | {"name": "pay"})
    assert document.decide(Scope("acme"), other).ruling == "deny"
