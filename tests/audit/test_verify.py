"""The verifier, proofs and reading, each by its law."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shipworthy_verify
from shipworthy import FileAuditLog, SealedKey
from shipworthy.adapters.shared.sealed import seal_key
from shipworthy.domain.audit import Draft, Entry
from shipworthy.errors import InputError
from shipworthy.rules.audit import form, proofs
from shipworthy.rules.audit.chain import seals_of
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.merkle import Tree
from shipworthy.rules.audit.reading import Holding, Sums
from shipworthy.rules.audit.signatures import checkpoint
from shipworthy.rules.audit.verdicts import MEANS, Bodies
from shipworthy.rules.audit.verifying import Verifier
from tests.audit.attacks import LATER, SECRET, Group, Log, made, ours, verify

# the verifier


@pytest.fixture(scope="module")
def log() -> Log:
    return made(random.Random(7), 90)


def test_a_line_that_is_too_deep_to_be_read_is_a_verdict(log: Log) -> None:
    deep = b'{"body":"x","salt":"%b","seq":1,"z":%b}' % (b"00" * 16, b"[" * 100_000 + b"]" * 100_000)
    first = next(group for group in log.groups or () if group.body is not None)

    assert form.body_of(deep) is None
    assert form.head_of(deep[:-1] + b',"sig":"%b"}' % (b"0" * 128)) is None
    assert ours(
        log.having([g._replace(body=deep) if g is first else g for g in log.groups or ()])
    ).verdict == ("body_edited")


def test_a_sound_log_is_reported_with_what_is_in_it(log: Log) -> None:
    report = verify(log)

    with_bodies = len([group for group in log.groups or () if group.body is not None])
    assert (report.verdict, report.entries, report.log, report.name) == ("ok", 90, log.id, "bot")
    assert report.bodies == Bodies(fit=with_bodies, erased=0, missing=0, edited=0)
    assert (report.keys, report.anchored, report.torn) == ((Secret(SECRET).id,), 90, 0)
    assert report.checkpoints == 2 * len(log.checkpoints)


def test_every_verdict_says_what_it_means_and_what_to_do() -> None:
    from typing import get_args

    from shipworthy.domain.audit import Verdict

    assert set(MEANS) == set(get_args(Verdict))
    assert all([means and (fix or verdict == "ok") for verdict, (means, fix) in MEANS.items()])


def test_a_secret_that_is_not_the_logs_is_the_wrong_key(log: Log) -> None:
    assert ours(replace(log, secrets=(LATER,))) == ("wrong_key", 0)
    assert ours(replace(log, secrets=())) == ("wrong_key", 0)


def test_without_the_secret_that_took_over_nothing_is_said_of_what_follows() -> None:
    rotated = made(random.Random(8), 40, rotate_at=13)

    assert ours(rotated).verdict == "ok"
    assert ours(replace(rotated, secrets=(SECRET,))) == ("wrong_key", 13)


def test_who_holds_the_key_that_was_given_up_cannot_go_on_with_the_log() -> None:
    from tests.audit.attacks import relinked

    rotated = made(random.Random(8), 40, rotate_at=13)
    old = Secret(SECRET)
    forged = relinked(rotated, 20, lambda epoch: old.epoch(rotated.id, epoch), lambda seq, entry: entry)

    assert ours(forged) == ("rewritten", 20)


def test_a_body_that_is_erased_missing_or_changed_breaks_no_chain(log: Log) -> None:
    groups = list(log.groups or ())
    first, second, third = [at for at, group in enumerate(groups) if group.body is not None][:3]
    for at, body in (
        (first, form.erased_line(first, len(groups[first].body or b""))),
        (second, None),
        (third, (groups[third].body or b"").replace(b'\\"at\\"', b'\\"It\\"')),
    ):
        groups[at] = Group(groups[at].entry, body)

    report = verify(log.having(groups))

    assert (report.verdict, report.seq, report.entries) == ("body_edited", third, 90)
    assert report.bodies.erased == report.bodies.missing == report.bodies.edited == 1
    groups[third] = Group(groups[third].entry, (log.groups or ())[third].body)
    assert verify(log.having(groups)).verdict == "ok"


def test_a_seal_that_is_gone_wrong_or_of_another_key_leaves_the_log_unsealed(log: Log) -> None:
    seal = log.seal
    assert seal is not None
    for wrong in (
        None,
        msgspec.structs.replace(seal, seal="0" * 64),
        msgspec.structs.replace(seal, count=89),
    ):
        assert ours(replace(log, seal=wrong)).verdict == "unsealed"


def test_a_log_that_has_only_begun_may_have_no_seal_yet(log: Log) -> None:
    begun = log.having((log.groups or ())[:1], checkpoints=(), anchored=None, seal=None)
    assert ours(begun).verdict == "ok"
    assert ours(replace(begun, groups=(log.groups or ())[:2])).verdict == "unsealed"
    assert ours(replace(begun, anchored=log.anchored)).verdict == "rolled_back"


def test_of_two_seals_a_torn_one_is_ignored(log: Log) -> None:
    assert log.seal is not None
    torn = msgspec.structs.replace(log.seal, count=91, seal="0" * 64)
    verifier = Verifier([Secret(SECRET)], seals=[torn, log.seal])
    for line in log.lines():
        verifier.feed(line)
    assert verifier.report().verdict == "ok"


def test_a_checkpoint_that_the_logs_signer_did_not_sign_is_reported(log: Log) -> None:
    other = made(random.Random(9), 90)
    forged = log.checkpoints[-1].replace(b'"at":', b'"at":9')

    assert ours(replace(log, checkpoints=(*log.checkpoints[:-1], forged))).verdict == "checkpoint"
    assert ours(replace(log, checkpoints=(*log.checkpoints, b"garbage"))).verdict == "checkpoint"
    assert ours(replace(log, checkpoints=other.checkpoints)).verdict == "checkpoint"
    assert ours(replace(log, anchored=(forged,))).verdict == "checkpoint"
    assert ours(replace(log, anchored=(b"torn", *log.checkpoints, b"garbage"))).verdict == "ok"


def test_checkpoints_of_an_anchor_may_come_late(log: Log) -> None:
    late = list(log.checkpoints)
    random.Random(1).shuffle(late)
    report = verify(replace(log, anchored=tuple(late)))
    assert (report.verdict, report.anchored) == ("ok", 90)


def test_an_anchor_that_also_tells_of_an_earlier_log_says_which_is_the_newest(log: Log) -> None:
    earlier = made(random.Random(10), 30)
    both = (*earlier.checkpoints, *log.checkpoints)

    assert ours(replace(log, anchored=both)).verdict == "ok"
    assert ours(replace(earlier, anchored=both)) == ("swapped", 0)
    assert ours(replace(earlier, anchored=both, expected=earlier.id)).verdict == "ok"


def test_what_a_clock_hides_is_said_as_well(log: Log) -> None:
    from tests.audit.attacks import clock_back

    attacked = clock_back(log, log, random.Random(3)).log
    groups = list(attacked.groups or ())
    del groups[-3]
    report = verify(attacked.having(groups))
    assert (report.verdict, report.also.partition(":")[0]) == ("clock_back", "deleted")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 10_000)), max_size=8),
    st.booleans(),
    st.binary(max_size=60),
)
def test_whatever_the_lines_are_there_is_a_verdict(
    lines: list[bytes | int], sealed: bool, head: bytes
) -> None:
    sound = _SOUND
    texts = sound.lines()
    verifier = Verifier(
        [Secret(SECRET)],
        seals=[sound.seal] if sealed and sound.seal else [],
        checkpoints=[head, *sound.checkpoints],
        anchored=[[head]],
    )
    for line in lines:
        verifier.feed(line if isinstance(line, bytes) else texts[line % len(texts)], whole=line != 3)
    assert verifier.report().verdict in MEANS


_SOUND = made(random.Random(11), 12)


@pytest.mark.parametrize("member", ["seq", "epoch", "logged", "n"])
def test_numbers_without_end_take_no_time_without_end(member: str, log: Log) -> None:
    groups = list(log.groups or ())
    for at in (0, 40):
        line = groups[at].entry
        start = line.index(f'"{member}":'.encode()) + len(member) + 3
        end = min(line.index(b",", start), line.index(b"}", start))
        for number in (b"-1", b"9" * 15, b"9" * 40):
            groups[at] = Group(line[:start] + number + line[end:])
            assert ours(log.having(groups)) == ("edited", at)
        groups[at] = Group(line)
    seal = log.seal
    assert seal is not None
    assert ours(replace(log, seal=msgspec.structs.replace(seal, count=10**17))).verdict == "unsealed"


def test_a_log_is_verified_in_flat_memory() -> None:
    sizes = []
    for count in (1_000, 8_000):
        secret = Secret(SECRET)
        tracemalloc.start()
        verifier = Verifier([secret], checkpoints=iter(()))
        for line in _stream(secret, count):
            verifier.feed(line)
        assert verifier.entries == count
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 32 * 1_024


def _stream(secret: Secret, count: int) -> Iterator[bytes]:
    from shipworthy.rules.audit.chain import Chain, genesis
    from tests.audit.attacks import a_draft

    standing, draft = genesis(secret, "bot", "ab" * 16, 1)
    chain, rng = Chain((secret,), standing), random.Random(1)
    for at in range(count):
        yield chain.link(draft, at, b"salt" * 4).line
        draft = a_draft(rng, at)


# proofs


def entries(log: Log) -> list[bytes]:
    return [group.entry for group in log.groups or ()]


def heads(log: Log) -> list[bytes]:
    """A checkpoint of each size of the log."""
    tree, made_of = Tree(), []
    for line in entries(log):
        tree.add(line)
        made_of.append(checkpoint(Secret(SECRET).seed(log.id), log.id, "bot", tree, 1))
    return made_of


@pytest.fixture(scope="module")
def small() -> tuple[list[bytes], list[bytes], str]:
    log = made(random.Random(12), 21)
    return entries(log), heads(log), made_signer(log)


def made_signer(log: Log) -> str:
    from shipworthy.rules.audit.signatures import public_of

    return public_of(Secret(SECRET).seed(log.id)).hex()


def test_every_entry_is_proved_under_every_checkpoint_of_it(
    small: tuple[list[bytes], list[bytes], str],
) -> None:
    lines, signed, signer = small
    for size, head in enumerate(signed, 1):
        for index in range(size):
            proof = proofs.prove_inclusion(iter(lines), index, head)
            again = proofs.proof_of(proofs.encode_proof(proof))
            assert again == proof
            assert proofs.check(again, signer).holds


def test_every_checkpoint_is_proved_to_go_on_from_every_earlier_one(
    small: tuple[list[bytes], list[bytes], str],
) -> None:
    lines, signed, signer = small
    for later in range(len(signed)):
        for earlier in range(later + 1):
            proof = proofs.prove_consistency(iter(lines), signed[earlier], signed[later])
            assert proofs.check(proof, signer).holds


def test_no_proof_holds_for_anything_else(small: tuple[list[bytes], list[bytes], str]) -> None:
    lines, signed, signer = small
    proof = proofs.prove_inclusion(lines, 5, signed[16])
    for wrong in (
        msgspec.structs.replace(proof, index=6),
        msgspec.structs.replace(proof, entry=lines[6].decode()),
        msgspec.structs.replace(proof, entry=proof.entry.replace('"at":', '"at":1')),
        msgspec.structs.replace(proof, path=proof.path[:-1]),
        msgspec.structs.replace(proof, path=[*proof.path, "0" * 64]),
        msgspec.structs.replace(proof, path=[*proof.path[:-1], "zz"]),
        msgspec.structs.replace(proof, checkpoint=signed[17].decode()),
        msgspec.structs.replace(proof, checkpoint="garbage"),
    ):
        assert not proofs.check(wrong, signer).holds
    assert not proofs.check(proof, "0" * 64).holds
    grown = proofs.prove_consistency(lines, signed[5], signed[16])
    for wrong_growth in (
        msgspec.structs.replace(grown, earlier=signed[6].decode()),
        msgspec.structs.replace(grown, later=signed[17].decode()),
        msgspec.structs.replace(grown, path=grown.path[:-1]),
        msgspec.structs.replace(grown, path=[]),
        msgspec.structs.replace(grown, earlier=grown.later, later=grown.earlier),
    ):
        assert not proofs.check(wrong_growth, signer).holds
    with pytest.raises(InputError):
        proofs.prove_inclusion(lines[:10], 5, signed[16])
    with pytest.raises(InputError):
        proofs.prove_consistency(lines[:5] + lines[6:] + lines[:1], signed[2], signed[16])
    assert proofs.proof_of(b'{"kind":"inclusion"}') is None


def test_a_verifier_that_never_saw_our_code_takes_our_proofs(
    small: tuple[list[bytes], list[bytes], str],
) -> None:
    import shipworthy_verify

    lines, signed, signer = small
    for size in (1, 2, 7, 8, 13, 21):
        inclusion = proofs.prove_inclusion(lines, size // 2, signed[size - 1])
        assert shipworthy_verify.check_inclusion(proofs.encode_proof(inclusion), signer)[0]
        growth = proofs.prove_consistency(lines, signed[size - 1], signed[20])
        assert shipworthy_verify.check_consistency(proofs.encode_proof(growth), signer)[0]
        wrong = msgspec.structs.replace(inclusion, index=size)
        assert not shipworthy_verify.check_inclusion(proofs.encode_proof(wrong), signer)[0]


def test_another_history_has_no_consistency_proof() -> None:
    """A writer who made the past anew can sign it, and cannot prove that it goes on from what was signed before."""
    log = made(random.Random(13), 21)
    other = [line.replace(b'"at":', b'"at":9') if at == 3 else line for at, line in enumerate(entries(log))]
    tree = Tree()
    for line in other:
        tree.add(line)
    now = checkpoint(Secret(SECRET).seed(log.id), log.id, "bot", tree, 1)
    before = heads(log)[9]

    proof = proofs.prove_consistency(other, before, now)

    assert not proofs.check(proof, made_signer(log)).holds


# reading


def told(seq: int, n: int, fence: int, action: str = "x", run: str = "r", **facts: object) -> Entry:
    return Entry(
        action=action,
        actor="a",
        at=0,
        body="",
        epoch=0,
        facts=facts,
        fence=fence,
        log="",
        logged=0,
        n=n,
        prev="",
        run=run,
        seq=seq,
        session=None,
        tenant="acme",
        user="alice",
        v=1,
    )


def by_the_page(log: list[Entry]) -> set[int]:
    """The rule, word by word."""
    void: set[int] = set()
    for at, entry in enumerate(log):
        before = [each for each in log[:at] if (each.tenant, each.run) == (entry.tenant, entry.run)]
        if any([entry.fence < each.fence for each in before]):
            void.add(entry.seq)
        else:
            void |= {each.seq for each in before if each.n >= entry.n}
    return void


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3), st.sampled_from("pq")), max_size=20))
def test_which_entries_hold_is_as_the_page_says(drawn: list[tuple[int, int, str]]) -> None:
    log = [told(seq, n, fence, run=run) for seq, (n, fence, run) in enumerate(drawn)]
    holding = Holding()
    for entry in log:
        holding.read(entry)
    assert holding.void == by_the_page(log)


def test_what_a_crash_left_uncommitted_is_in_no_sum() -> None:
    spent = {
        "input_tokens": 90,
        "output_tokens": 7,
        "charged_input_tokens": 90,
        "charged_output_tokens": 7,
        "cost": 375,
    }
    sums = Sums()
    for entry in (
        told(1, 1, 1, "run.started"),
        told(2, 3, 1, "model.answered", **spent),  # the process died before it was committed
        told(3, 3, 2, "run.resumed"),
        told(4, 4, 2, "model.answered", **spent),
        told(5, 5, 1, "model.answered", **spent),  # the dead one was not dead, and is fenced off
        told(6, 5, 2, "run.ended"),
        told(7, 1, 1, "run.started", run="open"),
    ):
        sums.read(entry)

    run = sums.runs["acme", "r"]
    assert (run.input_tokens, run.output_tokens, run.cost, run.model_answers) == (90, 7, 375, 1)
    assert (sums.all.started, sums.all.ended, sums.all.open) == (2, 1, 1)
    assert sums.users["acme", "alice"].cost == sums.tenants["acme"].cost == sums.all.cost == 375
    assert sums.open_runs() == [("acme", "open")]


def test_a_sealed_log_that_goes_on_with_a_plain_secret_is_not_forward_secure(tmp_path: Path) -> None:
    first, later = "the secret of those who verify", "and a plain one after it, alas"
    seal_key(tmp_path / "key", first, "ab" * 16, name="app")

    async def write(secret: object) -> None:
        log = FileAuditLog(tmp_path / "audit.jsonl", secret=secret, name="app")  # type: ignore[arg-type]
        await log.open()
        await log.append([Draft(action="x", actor="y", at=1)])
        await log.close()

    asyncio.run(write(SealedKey(tmp_path / "key")))
    before = shipworthy_verify.verify_file(tmp_path / "audit.jsonl", secrets=[first.encode()])
    asyncio.run(write([later, SealedKey(tmp_path / "key")]))
    after = shipworthy_verify.verify_file(tmp_path / "audit.jsonl", secrets=[first.encode(), later.encode()])

    assert (before.ok, before.forward_secure, after.ok, after.forward_secure) == (True, True, True, False)


def test_the_body_of_a_sealed_entry_that_was_cut_does_not_fit(tmp_path: Path) -> None:
    async def write() -> None:
        log = FileAuditLog(tmp_path / "audit.jsonl", secret=SECRET, name="app")
        await log.open()
        await log.append([Draft(action="x", actor="y", at=1, body=b'{"said":"something"}')])
        await log.close()

    asyncio.run(write())
    whole = (tmp_path / "audit.jsonl").read_bytes()
    (tmp_path / "audit.jsonl").write_bytes(whole[:-9])
    theirs = shipworthy_verify.verify_file(tmp_path / "audit.jsonl", secrets=[SECRET.encode()])
    ours = Verifier([Secret(SECRET)], seals=seals_of((tmp_path / "audit.jsonl.seal").read_bytes()))
    *lines, torn = whole[:-9].split(b"\n")
    for line in lines:
        ours.feed(line)
    ours.feed(torn, whole=False)

    assert (theirs.verdict, ours.report().verdict) == ("body_edited", "body_edited")
