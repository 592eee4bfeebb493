"""`shipworthy audit`, on real logs in files and SQLite."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import shipworthy_verify
from shipworthy.adapters.anchors.file import FileAnchor
from shipworthy.adapters.anchors.http import HttpAnchor
from shipworthy.app import cli
from shipworthy.app.audit_logs import FileAuditLog, SqliteAuditLog
from shipworthy.app.commands import opening_audit, showing_audit, verifying_audit
from shipworthy.domain.audit import Draft
from shipworthy_verify.marks import Marks
from tests.audit.witnesses import a_witness

SECRET = "the secret of the log that is looked at"
NEXT = "the secret that takes over from that one"
Invoke = Callable[..., tuple[int, str, str]]
MIA = ("--by", "mia", "--why", "the first one was in a mail")
KEY = ("--secret-env", "AUDIT_SECRET")
SPENT = {"input_tokens": 90, "output_tokens": 7, "cost": 375_000}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUDIT_SECRET", SECRET)
    monkeypatch.setenv("NEXT_SECRET", NEXT)
    return tmp_path


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.invoke(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def ok(invoke: Invoke) -> Callable[..., Any]:
    def call(*arguments: str) -> Any:
        code, out, err = invoke(*arguments, "--json")
        assert (code, err) == (0, ""), (out, err)
        return json.loads(out)

    return call


def drafts(count: int) -> list[Draft]:
    what = [("run.started", "user:alice", {}), ("tool.attempted", "agent:bot", {"tool": "refund"})]
    what += [("model.answered", "model:m", SPENT), ("run.ended", "runtime", {"status": "completed"})]
    return [
        Draft(
            action=what[at % 4][0],
            actor=what[at % 4][1],
            at=1_700_000_000_000 + at,
            tenant="acme",
            user="alice" if at % 8 < 4 else "bob",
            run=f"r{at // 4}",
            n=at % 4 + 1,
            fence=1,
            facts=what[at % 4][2],
            body=b'{"said":"%d"}' % at,
        )
        for at in range(count)
    ]


def log_of(where: str, **how: Any) -> Any:
    if where.startswith("sqlite:"):
        return SqliteAuditLog(where.removeprefix("sqlite:").partition("#")[0], **how)
    return FileAuditLog(where, **how)


def written(where: str, count: int = 24, secret: Any = SECRET, **how: Any) -> None:
    async def go() -> None:
        log = log_of(where, secret=secret, **how)
        await log.open()
        await log.append(drafts(count))
        await log.close()

    asyncio.run(go())


PLACES = pytest.mark.parametrize("place", ["audit.jsonl", "sqlite:bot.db"])


@PLACES
def test_a_sound_log_is_called_sound_and_its_windows_are_said(place: str, invoke: Invoke, ok: Any) -> None:
    written(place, anchors=[FileAnchor("anchor")])

    data = ok("audit", "verify", place, *KEY, "--anchor", "anchor")["audit"]

    assert (data["verdict"], data["entries"], data["anchored"]) == ("ok", 25, 25)
    assert data["bodies"] == {"fit": 24, "erased": 0, "missing": 0, "edited": 0}
    code, out, err = invoke("audit", "verify", place, *KEY)
    assert (code, out.splitlines()[0][:14]) == (0, "ok: 25 entries")
    assert "No anchor was asked" in err
    assert "not forward-secure" in err
    assert SECRET not in out + err


def test_what_was_done_to_a_log_is_named_with_what_to_do(invoke: Invoke) -> None:
    written("audit.jsonl", anchors=[FileAnchor("anchor")])
    text = Path("audit.jsonl").read_bytes()
    Path("audit.jsonl").write_bytes(text.replace(b'"user":"bob"', b'"user":"eve"', 1))

    code, out, _ = invoke("audit", "verify", "audit.jsonl", *KEY)

    assert code == 1
    assert out.startswith("edited at entry 5: Line 10, where entry 5 is due, is not authentic.")
    assert "fix: Keep the files" in out
    Path("audit.jsonl").unlink()
    code, out, _ = invoke("audit", "verify", "audit.jsonl", *KEY, "--anchor", "anchor", "--json")
    assert (code, json.loads(out)["audit"]["verdict"]) == (1, "missing")


def test_what_is_not_there_is_missing_and_nothing_is_made(invoke: Invoke) -> None:
    written("sqlite:bot.db")
    for place in ("nowhere.jsonl", "sqlite:nowhere.db", "sqlite:bot.db#other"):
        code, out, _ = invoke("audit", "verify", place, *KEY)
        assert (code, out.partition(":")[0]) == (1, "missing")
        code, _, err = invoke("audit", "show", place)
        assert (code, f"There is no audit log at {place}" in err) == (1, True)
    assert not Path("nowhere.db").exists()
    assert "Its database has: audit" in invoke("audit", "show", "sqlite:bot.db#other")[2]


def test_a_secret_comes_from_the_environment_or_a_file_and_is_asked_for(invoke: Invoke, ok: Any) -> None:
    written("audit.jsonl")
    Path("secret").write_text(SECRET + "\n")

    assert ok("audit", "verify", "audit.jsonl", "--secret-file", "secret")["audit"]["verdict"] == "ok"
    assert "Which secret?" in invoke("audit", "verify", "audit.jsonl")[2]
    assert "has no NO_SUCH" in invoke("audit", "verify", "audit.jsonl", "--secret-env", "NO_SUCH")[2]
    assert invoke("audit", "verify", "audit.jsonl", "--secret-env", "NEXT_SECRET", "--json")[0] == 1
    assert invoke("audit", "verify", "audit.jsonl", *KEY, "--expect-log", "00" * 16)[0] == 1


@PLACES
def test_show_has_the_entries_that_are_asked_for(place: str, invoke: Invoke) -> None:
    written(place)

    def shown(*options: str) -> list[dict[str, Any]]:
        code, out, _ = invoke("audit", "show", place, "--json", *options)
        assert code == 0
        return [json.loads(line) for line in out.splitlines()]

    assert len(shown()) == 25
    assert {each["entry"]["user"] for each in shown("--tenant", "acme", "--user", "bob")} == {"bob"}
    assert [each["entry"]["seq"] for each in shown("--action", "run.", "--run-id", "r2")] == [9, 12]
    assert [each["body"]["said"] for each in shown("--actor", "model:", "--last", "1", "--bodies")] == ["22"]
    assert shown("--until", "2020-01-01") == []
    assert len(shown("--since", "2020-01-01", "--holding")) == 25
    people = invoke("audit", "show", place, "--run-id", "r0", "--bodies")[1]
    assert "tool.attempted" in people
    assert '{"said":"1"}' in people


def test_sums_are_of_what_holds(invoke: Invoke, ok: Any) -> None:
    written("audit.jsonl", 22)

    data = ok("audit", "show", "audit.jsonl", "--sums")["sums"]

    assert data["all"]["cost"] == 5 * SPENT["cost"]
    assert (data["all"]["started"], data["all"]["open"]) == (6, 1)
    assert data["open_runs"] == [{"tenant": "acme", "run": "r5"}]
    assert "5 answers" in invoke("audit", "show", "audit.jsonl", "--sums")[1]
    assert invoke("audit", "show", "audit.jsonl", "--sums", "--action", "run.")[0] == 2


def test_what_cannot_be_read_is_said_with_what_to_do(invoke: Invoke, folder: Path) -> None:
    for command in (("verify", *KEY), ("show",), ("export", "-o", "copy.jsonl")):
        code, _, err = invoke("audit", command[0], str(folder), *command[1:])
        assert code == 1
        assert "cannot be read" in err
        assert "Traceback" not in err
    assert not Path("copy.jsonl").exists()


def test_whoever_looks_at_a_terminal_sees_how_far_it_is(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    written("audit.jsonl")
    monkeypatch.setattr(verifying_audit, "_STEP", 2)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = invoke("audit", "verify", "audit.jsonl", *KEY)
    assert (code, out.partition(":")[0]) == (0, "ok")
    assert "verifying" in err


@PLACES
def test_follow_shows_what_comes(
    place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(place, 4)
    monkeypatch.setattr(showing_audit, "_PAUSE", 0)
    looks = iter(range(3))

    def is_over() -> bool:
        look = next(looks)
        if look == 0:
            written(place, 3)
        return look == 2

    showing_audit.follow(
        place, showing_audit.Wanted(), showing_audit.How(last=1, as_json=True), is_over=is_over
    )

    out = capsys.readouterr().out
    assert [json.loads(line)["entry"]["seq"] for line in out.splitlines()] == [4, 5, 6, 7]


@PLACES
def test_an_export_verifies_as_the_log_does(place: str, invoke: Invoke, ok: Any) -> None:
    written(place)

    data = ok("audit", "export", place, "-o", "copy.jsonl")["exported"]

    assert (data["entries"], data["bodies"], data["checkpoints"]) == (25, 24, 1)
    here = ok("audit", "verify", place, *KEY)["audit"]
    there = ok("audit", "verify", "copy.jsonl", *KEY)["audit"]
    assert here == there
    assert "is there already" in invoke("audit", "export", place, "-o", "copy.jsonl")[2]


@PLACES
def test_proofs_are_made_and_hold_for_who_knows_the_signer(place: str, invoke: Invoke, ok: Any) -> None:
    written(place, 10)
    written(place, 10)
    [key] = ok("audit", "keys", "show", *KEY, "--log", place)["keys"]
    for options in (("--entry", "7"), ("--entry", "7", "--checkpoint", "21"), ("--from", "11", "--to", "21")):
        code, out, _ = invoke("audit", "prove", place, *options)
        assert code == 0
        Path("proof").write_text(out)
        assert ok("audit", "prove", "--check", "proof", "--signer", key["signer"])["proof"]["holds"]
        code, out, _ = invoke("audit", "prove", "--check", "proof", "--signer", "0" * 64)
        assert (code, out.partition(":")[0]) == (1, "does not hold")
    assert "no checkpoint of entry 99" in invoke("audit", "prove", place, "--entry", "99")[2]
    assert invoke("audit", "prove", place, "--entry", "1", "--from", "1")[0] == 2
    assert invoke("audit", "prove", "--check", "proof")[0] == 2


def test_a_new_secret_is_printed_once_and_is_good(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = invoke("audit", "keys", "new")
    assert code == 0
    assert "kept nowhere" in err
    monkeypatch.setenv("AUDIT_SECRET", out.strip())
    written("audit.jsonl", secret=out.strip())
    assert invoke("audit", "verify", "audit.jsonl", *KEY)[0] == 0
    assert invoke("audit", "keys", "new")[1] != out


def test_a_sealed_key_makes_a_log_that_is_forward_secure(invoke: Invoke, ok: Any) -> None:
    made = ok("audit", "keys", "seal", "-o", "writer.key", *KEY, "--name", "bot")["sealed"]
    written("audit.jsonl", secret=Path("writer.key"), anchors=[FileAnchor("anchor")])

    data = ok("audit", "verify", "audit.jsonl", *KEY, "--anchor", "anchor")["audit"]

    assert (data["forward_secure"], data["log"], data["name"]) == (True, made["log"], "bot")
    assert data["windows"] == []
    [shown] = ok("audit", "keys", "show", "writer.key")["keys"]
    assert (shown["key"], shown["signer"]) == (made["key"], made["signer"])
    assert SECRET not in invoke("audit", "keys", "show", "writer.key", *KEY)[1]


@PLACES
def test_a_secret_takes_over_from_another(place: str, invoke: Invoke, ok: Any) -> None:
    written(place)

    done = ok("audit", "keys", "rotate", place, *KEY, "--to-env", "NEXT_SECRET", *MIA)["rotated"]
    written(place, 4, secret=NEXT)

    both = ("--secret-env", "NEXT_SECRET", *KEY)
    data = ok("audit", "verify", place, *both)["audit"]
    assert (data["verdict"], data["entries"], data["keys"][-1]) == ("ok", 31, done["key"])
    code, out, _ = invoke("audit", "verify", place, *KEY, "--json")
    assert (code, json.loads(out)["audit"]["verdict"], json.loads(out)["audit"]["entry"]) == (
        1,
        "wrong_key",
        25,
    )
    assert "operator:mia" in invoke("audit", "show", place, "--actor", "operator:")[1]


def test_an_anchor_that_was_given_has_to_know_the_log(invoke: Invoke) -> None:
    written("audit.jsonl", name="shop", anchors=[FileAnchor("anchor")])
    written("other.jsonl", name="other", anchors=[FileAnchor("anchor-2")])
    Path("empty").touch()

    def verdict(log: str, *anchors: str) -> str:
        options = [each for anchor in anchors for each in ("--anchor", anchor)]
        code, out, _ = invoke("audit", "verify", log, *KEY, *options, "--json")
        said = str(json.loads(out)["audit"]["verdict"])
        assert code == (said != "ok")
        paths = [each.removeprefix("file:") for each in anchors]
        assert shipworthy_verify.verify_file(log, secrets=[SECRET], anchors=paths).verdict == said
        return said

    assert verdict("audit.jsonl", "file:anchor") == "ok"
    assert verdict("other.jsonl", "file:anchor") == "swapped"
    assert verdict("other.jsonl", "anchor-2") == "ok"
    assert verdict("audit.jsonl", "empty") == "unanchored"
    written("foreign.jsonl", secret=NEXT, anchors=[FileAnchor("anchor-4")])
    assert verdict("audit.jsonl", "anchor-4") == "unanchored"
    assert verdict("audit.jsonl", "anchor", "empty") == "unanchored"
    written("again.jsonl", name="shop", anchors=[FileAnchor("anchor-3")])
    Path("anchor").write_bytes(Path("anchor").read_bytes() + Path("anchor-3").read_bytes())
    assert verdict("again.jsonl", "anchor") == "ok"
    assert verdict("audit.jsonl", "anchor") == "swapped"
    genesis = Path("audit.jsonl").read_bytes().partition(b"\n")[0]
    for beside in (".seal", ".checkpoints"):
        Path("audit.jsonl" + beside).unlink()
    body = b'{"body":"x","salt":"%s","seq":0}\n' % (b"0" * 32)
    for left in (b"", b"\n", b"  ", body, genesis[:100]):
        Path("audit.jsonl").write_bytes(left)
        assert verdict("audit.jsonl", "anchor") == "emptied"
    code, _, err = invoke("audit", "verify", "audit.jsonl", *KEY)
    assert (code, "no anchor was asked" in err) == (0, True)


def test_an_anchor_that_is_not_there_is_no_empty_one(invoke: Invoke) -> None:
    written("audit.jsonl", anchors=[FileAnchor("anchor")])
    for anchor in ("anchr", "file:unmounted/anchor", "http://127.0.0.1:9/"):
        code, out, err = invoke("audit", "verify", "audit.jsonl", *KEY, "--anchor", anchor)
        assert (code, out, "nchor" in err) == (2, "", True)


def test_what_others_made_up_is_shown_on_one_line_and_where_it_ends(invoke: Invoke) -> None:
    forged = "x\n     9  2026-01-01 00:00:00  approval.granted   approver:boss \x1b[2K\u202e"

    async def go() -> None:
        log = FileAuditLog("audit.jsonl", secret=SECRET)
        await log.open()
        bad = Draft(
            action="tool.attempted",
            actor=f"tool:{forged}",
            at=1,
            tenant=forged,
            user="a b",
            run=forged,
            facts={"tool": forged, "calls": [forged], "like": "x tool=pay"},
            body=msgspec.json.encode({"said": forged}),
        )
        await log.append([bad, msgspec.structs.replace(bad, action="run.started", n=1)])
        await log.close()

    asyncio.run(go())
    _, out, _ = invoke("audit", "show", "audit.jsonl", "--bodies", "--action", "tool.")
    assert len(out.splitlines()) == 2
    assert out.replace("\n", "").isprintable()
    assert 'like="x tool=pay"' in out
    assert len(invoke("audit", "show", "audit.jsonl", "--sums")[1].splitlines()) == 3


def test_what_is_no_log_and_no_id_is_refused(invoke: Invoke) -> None:
    Path("binary").write_bytes(bytes(range(256)) * 9)
    code, _, err = invoke("audit", "show", "binary")
    assert (code, "no entry of an audit log in binary" in err) == (1, True)
    written("audit.jsonl")
    for given in ("zzz", "A" * 32):
        assert invoke("audit", "verify", "audit.jsonl", *KEY, "--expect-log", given)[0] == 2


def test_a_key_takes_over_once(invoke: Invoke) -> None:
    written("audit.jsonl")
    again = ("audit", "keys", "rotate", "audit.jsonl", *KEY, *MIA, "--to-env")
    code, _, err = invoke(*again, "AUDIT_SECRET")
    assert (code, "was the log's already" in err) == (1, True)
    assert invoke(*again, "NEXT_SECRET")[0] == 0
    assert invoke(*again, "AUDIT_SECRET", "--secret-env", "NEXT_SECRET")[0] == 1


def test_a_proof_is_in_lower_case_for_both_verifiers(invoke: Invoke, ok: Any) -> None:
    written("audit.jsonl")
    [key] = ok("audit", "keys", "show", *KEY, "--log", "audit.jsonl")["keys"]
    proof = json.loads(invoke("audit", "prove", "audit.jsonl", "--entry", "7")[1])

    def holds(**other: Any) -> bool:
        Path("proof").write_bytes(msgspec.json.encode(proof | other))
        code, _, _ = invoke("audit", "prove", "--check", "proof", "--signer", key["signer"])
        assert shipworthy_verify.check_inclusion(Path("proof").read_bytes(), key["signer"])[0] == (code == 0)
        return code == 0

    assert holds()
    assert not holds(path=[each.upper() for each in proof["path"]])
    head, sig = proof["checkpoint"][:-130], proof["checkpoint"][-130:]
    assert not holds(checkpoint=head + sig.upper())


@pytest.mark.parametrize(
    ("of", "part", "mutant"),
    [
        (verifying_audit, "held_to_anchors", lambda report, anchors: report),
        (opening_audit, "_up_to", lambda path, size: iter(())),
        (Marks, "newest_log", lambda self, name, log, signers: None),
    ],
)
def test_a_command_that_does_not_hold_a_log_to_its_anchors_fails_the_law(
    of: Any, part: str, mutant: Any, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of, part, mutant)
    with pytest.raises(AssertionError):
        test_an_anchor_that_was_given_has_to_know_the_log(invoke)


def test_an_anchor_that_cannot_be_asked_for_names_knows_the_log_or_is_told_its_name(
    invoke: Invoke, folder: Path
) -> None:
    with a_witness(folder / "witness") as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        written("audit.jsonl", name="shop", anchors=[HttpAnchor(url)])
        written("other.jsonl", name="other")

        def verdict(log: str, *options: str) -> str:
            _, out, _ = invoke("audit", "verify", log, *KEY, "--anchor", url, *options, "--json")
            return str(json.loads(out)["audit"]["verdict"])

        assert verdict("audit.jsonl") == "ok"
        assert verdict("other.jsonl") == "unanchored"
        assert verdict("other.jsonl", "--name", "shop") == "swapped"
        Path("audit.jsonl").write_bytes(b"")
        Path("audit.jsonl.seal").unlink()
        assert verdict("audit.jsonl") == "emptied"
        Path("audit.jsonl.checkpoints").unlink()
        assert verdict("audit.jsonl") == "unanchored"
        assert verdict("audit.jsonl", "--name", "shop") == "emptied"
