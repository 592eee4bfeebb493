"""Three processes serve the same database while one of them is killed each second, and replaced.

All runs end, each once; whoever follows one from a fourth process sees every sequence number once and in order.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter

import msgspec
import pytest

from shipworthy.domain.events import RunEnded
from tests.crash import checks, laws, proof, scenario
from tests.crash.proof import Plan, World
from tests.crash.zygote import Child

pytestmark = pytest.mark.crash

SECONDS = 60 if proof.LONG else 6
WORKERS = 3
RUNS = 300 if proof.LONG else 180
SESSION = tuple(f"b{n}" for n in range(24))
"""Of one session; the others are of several tenants, and some of them make calls at once."""
OTHERS = tuple(f"{'gz'[n % 2]}{n}" for n in range(RUNS - len(SESSION)))
AFTER = 5
AT_ONCE = 3 if proof.LONG else 12
"""Runs that each process drives at once, so few that serving takes as long as killing."""
PAUSE = 0.4
PLAN = Plan(
    way="serve",
    runs=SESSION + OTHERS,
    setting=scenario.Setting(
        store="postgres", ttl=2.0, skew=0.1, pause=PAUSE, tool_timeout=PAUSE + 1.0, recover_every=0.5
    ),
)


def test_three_processes_serve_all_runs_while_one_is_killed_each_second() -> None:
    with proof.worlds("postgres") as fresh:
        world = next(fresh)
        followed = random.Random(proof.SEED).sample(OTHERS, 8) + list(SESSION[:2])
        following = msgspec.structs.replace(PLAN, way="follow", runs=tuple(followed))
        follower = world.start(following.job(world, after=AFTER))
        serve_and_kill(world, random.Random(f"{proof.SEED} fleet"))
        assert follower.wait() == 0, follower.log.read_text()
        assert proof.figures.kills >= SECONDS * 0.6, "serving was over too soon"
        violations = [*judge(world), *torn_streams(world)]
        proof.figures.found(violations)
        assert violations == []
        assert len(world.followed()) == 2 * len(followed)


def serve_and_kill(world: World, chance: random.Random) -> None:
    """Until every run of each process, or of those that replaced it, has ended."""
    order = list(PLAN.runs)
    chance.shuffle(order)
    shares = [proof.with_runs(PLAN, tuple(order[i::WORKERS])) for i in range(WORKERS)]
    workers: dict[int, Child] = {
        i: world.start(share.job(world, at_once=AT_ONCE)) for i, share in enumerate(shares)
    }
    began = time.monotonic()
    for second in range(1, SECONDS + 1):
        time.sleep(max(began + second - time.monotonic(), 0.0))
        for i in [i for i, worker in workers.items() if worker.ended]:
            worker = workers.pop(i)
            assert worker.wait() == 0, worker.log.read_text()
        if not workers:
            return
        i = chance.choice(list(workers))
        workers[i].signal(signal.SIGKILL)
        if workers[i].wait() == -signal.SIGKILL:
            world.killed("from outside")
            workers[i] = world.start(shares[i].job(world, at_once=AT_ONCE))
        else:
            del workers[i]
    for worker in workers.values():
        assert worker.wait() == 0, worker.log.read_text()


def judge(world: World) -> list[proof.Violation]:
    """What is wrong; a session's conversations depend on the order of its runs, which is looked at by itself."""
    alone = msgspec.structs.replace(proof.with_setting(PLAN, pause=0.0), way="together")
    expected, _ = proof.uncrashed(alone)
    journal, acks, sink = world.journal(), world.acks(), world.sink()
    known = {key: said for key, said in expected.conversations.items() if key[1] not in SESSION}
    expected = msgspec.structs.replace(expected, conversations=known)
    asked = [request for request in world.requests() if request.run_id not in SESSION]
    twice = [
        checks.Violation("different", f"{run_id} ended {ends} times")
        for (_, run_id), run in journal.items()
        if (ends := sum(isinstance(event, RunEnded) for event in run.events)) != 1
    ]
    returned = Counter(ack.run_id for ack in acks if ack.how == "returned")
    untold = [
        checks.Violation("lost", f"{run_id} was not returned") for run_id in PLAN.runs if not returned[run_id]
    ]
    return [
        *checks.at_the_end(expected, acks, journal, sink, asked),
        *checks.believed_too_early(journal, world.asked(), acks, 0),
        *laws.out_of_order(world, SESSION),
        *twice,
        *untold,
    ]


def torn_streams(world: World) -> list[proof.Violation]:
    """Streams that did not give each number once and in order, to the end."""
    lengths = {run_id: len(run.events) for (_, run_id), run in world.journal().items()}
    return [
        checks.Violation("different", f"{stream.run_id} after {stream.after} gave {stream.seen}")
        for stream in world.followed()
        if stream.seen != list(range(stream.after + 1, lengths[stream.run_id] + 1))
    ]
