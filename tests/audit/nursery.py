"""Writers of one audit log that are killed at random: forked, since that is quick, from a process without threads.

    python nursery.py PATH SECONDS SEED MUTANT

Each writer notes in a file of its own what was acknowledged to it: one write for each, so that nothing is
lost of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

from shipworthy import FileAuditLog
from shipworthy.adapters.shared.sealed import seal_key
from shipworthy.domain.audit import Draft
from tests.audit import file_mutants

SECRET = "a secret of the log's owner, kept elsewhere"
WRITERS, TASKS = 8, 3


async def write(path: Path, name: str) -> None:
    log = FileAuditLog(path, secret=path.with_name("key"), rotate_bytes=200_000)
    acknowledged = os.open(path.with_name(f"acks-{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    await log.open()

    async def task(number: int) -> None:
        for n in range(1_000_000):
            what = f"{name}-{number}-{n}"
            body = b'"%s"' % what.encode() if n % 3 == 0 else b""
            await log.append([Draft(action="test", actor="writer", at=n, facts={"what": what}, body=body)])
            os.write(acknowledged, what.encode() + b"\n")

    await asyncio.gather(*[task(number) for number in range(TASKS)])


def born(path: Path, name: str) -> int:
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(write(path, name))
        except BaseException as error:
            path.with_name(f"failed-{name}").write_text(repr(error))
        finally:
            os._exit(1)
    return child


def main(path: Path, seconds: float, seed: int, mutant: str) -> None:
    chance = random.Random(seed)
    file_mutants.install(mutant)
    seal_key(path.with_name("key"), SECRET, os.urandom(16).hex())
    until, names = time.monotonic() + seconds, iter(range(10**6))
    living = [born(path, str(next(names))) for _ in range(WRITERS)]
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.01, 0.06))
        victim = living.pop(chance.randrange(len(living)))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        living.append(born(path, str(next(names))))
    for victim in living:
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
