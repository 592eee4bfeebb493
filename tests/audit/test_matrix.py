"""The attack matrix: each attack is detected and called by its name, wherever it strikes, and nothing else ever is."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from shipworthy.rules.audit import verifying
from shipworthy.rules.audit.epochs import Stamp
from shipworthy.rules.audit.heads import Heads
from shipworthy.rules.audit.sealing import Seals
from shipworthy.rules.audit.verifying import Verifier
from tests.audit import attacks
from tests.audit.attacks import (
    ATTACKS,
    LATER,
    SECRET,
    Attack,
    Log,
    Said,
    anything,
    crashed,
    made,
    ours,
    theirs,
    verify,
)

LONG = os.environ.get("SHIPWORTHY_PROOF") == "long"
POSITIONS = 200 if LONG else 10
CLEAN = 1_000 if LONG else 50
Check = Callable[[Log], Said]
CHECKS: dict[str, Check] = {"ours": ours}
if importlib.util.find_spec("shipworthy_verify") is not None:
    CHECKS["theirs"] = theirs


def pairs(seed: int, **how: object) -> Iterator[tuple[Log, Log, random.Random]]:
    """A log to attack, another one of the same key, and what draws the positions; each pair serves ten of them."""
    for at in range(POSITIONS):
        rng = random.Random(f"{seed}/{at}")
        if at % 10 == 0:
            maker = random.Random(f"{seed}/{at}/log")
            log = made(maker, 60 + maker.randrange(60), **how)  # type: ignore[arg-type]
            other = made(maker, 60 + maker.randrange(60), **how)  # type: ignore[arg-type]
        yield log, other, rng


def wrongly_named(name: str, check: Check, **how: object) -> list[str]:
    """What the verifier did not call by its name."""
    wrong = []
    for log, other, rng in pairs(sorted(ATTACKS).index(name), **how):
        attacked = ATTACKS[name](log, other, rng)
        said = check(attacked.log)
        entry = said.entry if attacked.entry is None else attacked.entry
        if said != (attacked.verdict, entry):
            wrong.append(f"{name}: {said}, and not {attacked.verdict} at {attacked.entry}")
    return wrong


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_found_and_called_by_its_name(name: str, check: str) -> None:
    assert wrongly_named(name, CHECKS[check]) == []


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"rewrite", "rewrite_now", "clock_back"}))
def test_so_it_is_in_a_log_whose_key_was_changed(name: str, check: str) -> None:
    assert wrongly_named(name, CHECKS[check], rotate_at=20) == []


@pytest.mark.parametrize("check", CHECKS)
def test_no_log_is_called_attacked_that_was_not(check: str) -> None:
    for at in range(CLEAN):
        rng = random.Random(f"clean/{at}")
        rotate_at = rng.choice([None, None, 7])
        log = made(rng, rng.randrange(1, 90), every=rng.choice([1, 8, 64]), rotate_at=rotate_at)
        log = replace(log, secrets=(LATER, SECRET))
        assert CHECKS[check](log).verdict == "ok", at
        assert CHECKS[check](crashed(log, rng)).verdict == "ok", at


@pytest.mark.skipif("theirs" not in CHECKS, reason="the second verifier is not here")
def test_both_verifiers_say_the_same_of_whatever_is_done_to_a_log() -> None:
    different = []
    log = other = None
    for at in range(20 * POSITIONS):
        if at % 40 == 0:
            rng = random.Random(f"any/{at}")
            log = made(
                rng, rng.randrange(2, 70), every=rng.choice([1, 4, 8, 64]), rotate_at=rng.choice([None, 5])
            )
            other = made(rng, rng.randrange(2, 70), every=rng.choice([4, 8]))
        assert log is not None
        assert other is not None
        rng = random.Random(f"any/{at}/{at}")
        attacked = log
        for _ in range(rng.randrange(1, 4)):
            attacked = anything(attacked, other, rng)
        one, two = ours(attacked), theirs(attacked)
        # whether a first line that nobody could have made has the form of an entry is a question of taste
        first = one.entry == two.entry == 0 and {one.verdict, two.verdict} <= {
            "spliced",
            "edited",
            "inserted",
        }
        if one != two and not first:
            different.append(f"{at}: {one}, and {two}")
    assert different == []


# what cannot be found, and is said


def test_without_an_anchor_a_log_that_is_put_back_whole_is_a_window_that_is_said() -> None:
    log = made(random.Random(1), 80)

    report = verify(replace(log.earlier[2], anchored=None))

    assert report.verdict == "ok"
    assert any(["put back to an earlier state" in window for window in report.windows])


def test_entries_of_the_live_epoch_that_no_anchor_has_are_a_window_that_is_said() -> None:
    log = made(random.Random(2), 85)
    assert log.anchored is not None
    behind = replace(log, anchored=log.anchored[:-1])
    start = attacks.anchored_count(behind)
    stolen = attacks.Stolen(log, SECRET)
    assert start >= stolen.epoch * log.every, "the seed has no such log: take another one"
    changed = attacks.relinked(behind, start, stolen.key, attacks._other_at(start, random.Random(3)))

    report = verify(attacks.with_heads(changed, stolen.seed()))

    assert report.verdict == "ok"
    assert any(["under no anchored checkpoint yet" in window for window in report.windows])


def test_with_a_plain_secret_it_is_said_that_the_log_is_not_forward_secure() -> None:
    report = verify(made(random.Random(4), 30))

    assert not report.forward_secure
    assert any(["not forward-secure" in window for window in report.windows])


# mutants of the verifier: without a part of it, what that part is there for is called something else, or nothing


@pytest.mark.parametrize(
    ("attack", "of", "part", "mutant"),
    [
        ("edit", Stamp, "is_right", lambda self, line: line[-66:-2].isalnum()),
        ("insert", Stamp, "is_right", lambda self, line: line[-66:-2].isalnum()),
        ("delete_tail", Seals, "count", lambda self, now, known: 0),
        ("empty", Heads, "tells", lambda self: False),
        ("reorder", Verifier, "_look", lambda self, entry, line: None),
        ("splice", verifying, "is_written", lambda entry, line: False),
        ("rewrite", Verifier, "_is_rewritten", lambda self, line: False),
        ("rewrite_now", Heads, "_hold", lambda self, *read, now: None),
        ("roll_back", Heads, "finish", lambda self, signers, log: None),
        ("swap", Verifier, "_is_expected", lambda self, log: None),
        ("clock_back", verifying, "CLOCK", 1 << 62),
    ],
)
def test_a_verifier_without_a_part_of_it_fails_the_matrix(
    attack: str, of: object, part: str, mutant: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of, part, mutant)
    assert wrongly_named(attack, ours)


# mutants of the scheme: without a part of it, what that part is there for is not found


def test_without_an_id_of_its_own_a_log_is_swapped_unseen() -> None:
    assert len(wrongly_named("swap", ours, log="0" * 32)) == POSITIONS
    assert len(wrongly_named("splice", ours, log="0" * 32)) == POSITIONS


def test_with_one_key_for_ever_the_past_is_rewritten_unseen() -> None:
    every: Attack = ATTACKS["rewrite"]
    for log, other, rng in pairs(1, every=8):
        past = every(log, other, rng)
        assert ours(past.log) == ("rewritten", past.entry)
    for log, _, rng in pairs(1, every=1 << 30):
        stolen = attacks.Stolen(log, SECRET)
        start = rng.randrange(1, log.count)
        changed = attacks.relinked(
            replace(log, anchored=None), start, stolen.key, attacks._other_at(start, rng)
        )
        assert ours(attacks.with_heads(changed, stolen.seed())).verdict == "ok"


def test_without_checkpoints_a_log_is_put_back_unseen() -> None:
    for log, other, rng in pairs(2):
        attacked = ATTACKS["roll_back"](log, other, rng)
        assert ours(attacked.log) == ("rolled_back", attacked.entry)
        assert ours(replace(attacked.log, anchored=None)).verdict == "ok"
        now = ATTACKS["rewrite_now"](log, other, rng)
        assert ours(now.log).verdict == "rewritten"
        assert ours(replace(now.log, anchored=None, checkpoints=())).verdict == "ok"
