"""What long-term memory costs, beside numpy in RAM and SQLite with numpy, in one interleaved run.

    python bench/memory.py [--quick] [--json FILE] [--dir FOLDER] [--rounds N] [--only WORD]

*raw* keeps a float32 matrix and the texts of each user in a dictionary: the question's vector times the matrix, the
five highest, their texts. *governed* reads a user's vectors and texts from an SQLite file that was written with
`synchronous=FULL`, and does the same. *ours* is `Memory.recall`: words and vectors, in the store's own partition, with
what every recall does (what changed since, the index, one order, the records). Vectors have 384 dimensions and come
from a table, so that no model is measured. *hot*: the index of the user is in the cache; *cold*: it is made from the
store for each recall. Times are wall time of one recall, for ours is not all on one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec
import numpy as np
from measure import Row, Sample, Side, as_json, interleave, loop_lag, machine, progress, table
from numpy.typing import NDArray

from shipworthy.app.memories import InMemoryMemory, SqliteMemory
from shipworthy.domain.memory import Episode
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory
from shipworthy.ports.embedder import Purpose

DIMENSIONS = 384
WORDS = 20
VOCABULARY = 20_000
TOP = 5
CACHE_MIB = 64


class Sizes(msgspec.Struct, frozen=True):
    """How much work one sample is."""

    rounds: int = 9
    users: int = 1_000
    in_all: tuple[int, ...] = (1_000, 10_000, 100_000)
    alone: tuple[int, ...] = (10_000, 100_000)
    recalls: int = 60
    heavy: int = 8
    remembered: int = 40


QUICK = Sizes(1, 10, (20, 100), (600,), 3, 2, 3)


class World:
    """Texts and vectors, the same each time: words as rare as in a language, a vector for each of 4,096 texts."""

    name, limit = "bench:table", 10_000

    def __init__(self) -> None:
        draw = np.random.default_rng(6)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        self._words = ["".join(draw.choice(letters, 7)) for _ in range(VOCABULARY)]
        odds = 1 / np.arange(1, VOCABULARY + 1) ** 0.9
        self._picked = draw.choice(VOCABULARY, 1 << 20, p=odds / odds.sum())
        made = draw.standard_normal((4_096, DIMENSIONS)).astype(np.float32)
        self._vectors = made / np.linalg.norm(made, axis=1, keepdims=True)

    def text(self, number: int, words: int = WORDS) -> str:
        start = number * 31 % (len(self._picked) - words)
        return f"{number} " + " ".join([self._words[word] for word in self._picked[start : start + words]])

    def vector(self, text: str) -> NDArray[np.float32]:
        made: NDArray[np.float32] = self._vectors[int(text.partition(" ")[0]) % len(self._vectors)]
        return made

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[Any]:
        return [self.vector(text) for text in texts]

    async def close(self) -> None:
        pass


WORLD = World()


def best(matrix: NDArray[np.float32], question: NDArray[np.float32]) -> list[int]:
    scores = matrix @ question
    first = np.argpartition(-scores, min(TOP, len(scores) - 1))[:TOP]
    rows: list[int] = first[np.argsort(-scores[first])].tolist()
    return rows


class Ram:
    """Matrices and texts of users."""

    def __init__(self) -> None:
        self._users: dict[Scope, tuple[NDArray[np.float32], list[str]]] = {}

    def fill(self, scope: Scope, texts: list[str]) -> None:
        self._users[scope] = np.stack([WORLD.vector(text) for text in texts]), texts

    def recall(self, scope: Scope, question: str) -> list[str]:
        matrix, texts = self._users[scope]
        return [texts[row] for row in best(matrix, WORLD.vector(question))]


class Rows:
    """The same in an SQLite file."""

    def __init__(self, path: Path) -> None:
        self._db = apsw.Connection(str(path))
        self._db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-65536")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS episode (tenant TEXT, user TEXT, n INTEGER, text TEXT, vector BLOB, "
            "PRIMARY KEY (tenant, user, n)) WITHOUT ROWID"
        )

    def fill(self, scope: Scope, texts: list[str], begin: int = 0) -> None:
        rows = [
            (scope.tenant, scope.user, n, text, WORLD.vector(text).tobytes())
            for n, text in enumerate(texts, begin)
        ]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO episode VALUES (?, ?, ?, ?, ?)", rows)

    def recall(self, scope: Scope, question: str) -> list[str]:
        query = "SELECT vector, text FROM episode WHERE tenant = ? AND user = ?"
        found = list(self._db.execute(query, (scope.tenant, scope.user)))
        matrix = np.frombuffer(b"".join([row[0] for row in found]), np.float32).reshape(-1, DIMENSIONS)
        return [found[row][1] for row in best(matrix, WORLD.vector(question))]

    def close(self) -> None:
        self._db.close()


async def fill(memory: Memory, scope: Scope, texts: Sequence[str]) -> None:
    for start in range(0, len(texts), 500):
        part = texts[start : start + 500]
        made = [
            Episode(id=f"{scope.user}-{start + n:09d}", text=text, at=(start + n) * 600_000)
            for n, text in enumerate(part)
        ]
        await memory.keep(scope, made)


class Filled:
    """Both floors and ours, with the same in them. Ours are open on one event loop that stays."""

    def __init__(self, folder: Path, users: int, in_all: int) -> None:
        folder = Path(tempfile.mkdtemp(dir=folder))
        self.scopes = [Scope("acme", f"user-{n}") for n in range(users)]
        self.ram, self.rows = Ram(), Rows(folder / "floor.db")
        each = in_all // users
        embedder: Any = WORLD
        self.loop = asyncio.new_event_loop()
        self.inmemory = InMemoryMemory(embedder=embedder, max_records=10**6)
        self.path = folder / "ours.db"
        self.hot = SqliteMemory(self.path, embedder=embedder)
        for nth, scope in enumerate(self.scopes):
            if not nth % 50:
                progress(f"filling {in_all:,} of {users:,}: user {nth}")
            texts = [WORLD.text(nth * each + n) for n in range(each)]
            self.ram.fill(scope, texts)
            self.rows.fill(scope, texts)
            self.loop.run_until_complete(fill(self.inmemory, scope, texts))
            self.loop.run_until_complete(fill(self.hot, scope, texts))

    def question(self, number: int) -> str:
        return WORLD.text(7 * number, words=8)

    def floor(self, side: Ram | Rows, times: int, among: int) -> Sample:
        """Microseconds of one recall, by users in turn."""
        scopes = self.scopes[:among]

        def sample() -> float:
            begun = time.perf_counter()
            for n in range(times):
                side.recall(scopes[n % len(scopes)], self.question(n))
            return (time.perf_counter() - begun) / times * 1e6

        return sample

    def ours(self, memory: Memory, times: int, among: int, *, warm: bool) -> Sample:
        scopes = self.scopes[:among]

        async def ask(count: int) -> None:
            for n in range(count):
                if not warm:
                    memory._indexes[id(memory.store)].forget(scopes[n % len(scopes)])
                await memory.recall(scopes[n % len(scopes)], self.question(n), limit=TOP)

        def sample() -> float:
            if warm:
                self.loop.run_until_complete(ask(len(scopes)))
            begun = time.perf_counter()
            self.loop.run_until_complete(ask(times))
            return (time.perf_counter() - begun) / times * 1e6

        return sample


def recall_rows(filled: Filled, name: str, times: int, among: int) -> list[Row]:
    ram, rows = filled.floor(filled.ram, times, among), filled.floor(filled.rows, times, among)
    mine = filled.ours

    def row(how: str, sides: dict[Side, Sample], against: Side, at_most: float) -> Row:
        return Row(name=f"recall, {name}: {how}", unit="us", sides=sides, against=against, at_most=at_most)

    return [
        row("in memory", {"raw": ram, "ours": mine(filled.inmemory, times, among, warm=True)}, "raw", 1.5),
        row(
            "SQLite, hot",
            {"raw": ram, "governed": rows, "ours": mine(filled.hot, times, among, warm=True)},
            "raw",
            1.5,
        ),
        row(
            "SQLite, cold",
            {"governed": rows, "ours": mine(filled.hot, times, among, warm=False)},
            "governed",
            1.3,
        ),
    ]


def remember_row(filled: Filled, times: int) -> Row:
    """One episode after the other, each durable."""
    numbers = iter(range(10**6, 10**9))
    scope = filled.scopes[0]

    def floor() -> float:
        begun = time.perf_counter()
        for _ in range(times):
            number = next(numbers)
            filled.rows.fill(scope, [WORLD.text(number)], number)
        return (time.perf_counter() - begun) / times * 1e6

    def ours() -> float:
        async def remember() -> None:
            for _ in range(times):
                await filled.hot.remember(scope, WORLD.text(next(numbers)))

        begun = time.perf_counter()
        filled.loop.run_until_complete(remember())
        return (time.perf_counter() - begun) / times * 1e6

    return Row(name="remember, durable", unit="us", sides={"governed": floor, "ours": ours}, at_most=1.3)


def memory_rows(filled: Filled) -> list[Row]:
    """After a recall of every user: what the indexes say they take, and what the process grew by."""
    grown: list[float] = []

    def resident() -> float:
        gc.collect()
        lines = (
            Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []
        )
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)

    async def everybody() -> None:
        for nth, scope in enumerate(filled.scopes):
            await filled.hot.recall(scope, filled.question(nth), limit=TOP)

    def sample() -> float:
        before = resident()
        filled.loop.run_until_complete(everybody())
        grown.append(resident() - before)
        return sum([each.nbytes for each in filled.hot._indexes.values()]) / 2**20

    name = f"memory of the indexes, {len(filled.scopes):,} users asked"
    return [
        Row(name=name, unit="MiB", sides={"ours": sample}, against=None, limit=CACHE_MIB),
        Row(
            name="growth of the process meanwhile",
            unit="MiB",
            sides={"ours": lambda: max(grown)},
            against=None,
            limit=2 * CACHE_MIB,
        ),
    ]


def lag_row(filled: Filled, times: int, count: int) -> Row:
    """How late the event loop is for others while one user's recalls go on, the first of them cold."""

    embedder: Any = WORLD

    async def heavy() -> None:
        memory = SqliteMemory(filled.path, embedder=embedder)
        await memory.open()
        try:
            for n in range(times):
                await memory.recall(filled.scopes[0], filled.question(n), limit=TOP)
        finally:
            await memory.close()

    name = f"loop lag of others, p99, while one user with {count:,} recalls"
    return Row(name=name, unit="ms", sides={"ours": lambda: loop_lag(heavy())}, against=None, limit=20)


def rows_of(sizes: Sizes, folder: Path, only: Callable[[str], bool]) -> list[Row]:
    rows: list[Row] = []
    for in_all in sizes.in_all:
        filled = Filled(folder, min(sizes.users, in_all), in_all)
        name = f"{len(filled.scopes):,} users, {in_all:,} episodes"
        rows += recall_rows(filled, name, sizes.recalls, min(20, sizes.users))
        if in_all == sizes.in_all[-1]:
            rows += [remember_row(filled, sizes.remembered), *memory_rows(filled)]
    for alone in sizes.alone:
        filled = Filled(folder, 1, alone)
        rows += recall_rows(filled, f"one user, {alone:,} episodes", sizes.heavy, 1)
        rows.append(lag_row(filled, sizes.heavy, alone))
    return [row for row in rows if only(row.name)]


def main() -> None:
    parser = argparse.ArgumentParser(description="What long-term memory costs, beside numpy and SQLite.")
    parser.add_argument("--quick", action="store_true", help="every row once; the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, samples included")
    parser.add_argument("--dir", type=Path, default=Path(), help="where files are made (default: here)")
    parser.add_argument("--rounds", type=int, help="samples of each side")
    parser.add_argument("--only", default="", metavar="WORD", help="only rows whose name contains this")
    asked = parser.parse_args()
    sizes = QUICK if asked.quick else Sizes()
    rounds = asked.rounds or sizes.rounds
    with tempfile.TemporaryDirectory(dir=asked.dir) as folder:
        rows = rows_of(sizes, Path(folder), lambda name: asked.only in name)
        interleave(rows, rounds, progress)
    progress("")
    print(table(rows))
    print()
    print(f"{machine()}; medians of {rounds} interleaved rounds; ratios are the median of each round's own.")
    if asked.json:
        asked.json.write_text(as_json(rows, {"rounds": rounds, "quick": asked.quick}) + "\n")


if __name__ == "__main__":
    main()
