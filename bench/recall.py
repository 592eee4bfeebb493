"""How well memory finds what was said: by words, by vectors, by both, side by side on the same questions.

    python bench/recall.py [--quick] [--json FILE] [--data FOLDER]... [--episodes N]

*recall@5*: of how many questions an episode that answers them is among the first five; *MRR*: the mean of one over the
rank of the first that does. `reciprocal ranks` fuses the same two lists by their ranks alone (Cormack, Clarke and
Büttcher 2009, k = 60), for comparison. Data sets: `tests/memory/recall`, which was written by hand before the code; one
that is generated, in which everything is said and asked in several ways (`retelling.py`); and any *FOLDER* with
`episodes.jsonl` and `questions.jsonl` of that form, such as a published one. No package of a known licence ships a
published set of long conversations, so none is downloaded here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from measure import machine, progress
from retelling import retold

from shipworthy.app.embedders import local_is_installed
from shipworthy.app.memories import InMemoryMemory
from shipworthy.domain.memory import Episode, Role, Weights
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory

ROOT = Path(__file__).resolve().parents[1]
WHOSE = Scope("bench", "somebody")
DEPTH = 100
K = 60
WAYS = ("words (BM25)", "vectors", "reciprocal ranks", "hybrid")


class Said(msgspec.Struct):
    id: str
    text: str
    at: datetime
    role: Role = "user"


class Asked(msgspec.Struct):
    question: str
    evidence: list[str]
    overlap: int | None = None


class Data(msgspec.Struct):
    name: str
    said: list[Said]
    asked: list[Asked]


class Found(msgspec.Struct):
    """How one way did on one data set. `at_5` by how many words the question shares with its evidence."""

    data: str
    way: str
    questions: int
    recall_at_5: float
    mrr: float
    at_5: dict[str, str]


def read(folder: Path) -> Data:
    """A data set in files."""

    def lines(name: str, of: Any) -> list[Any]:
        return [msgspec.json.decode(line, type=of) for line in (folder / name).read_bytes().splitlines()]

    return Data(folder.name, lines("episodes.jsonl", Said), lines("questions.jsonl", Asked))


async def told(memory: Memory, said: Sequence[Said]) -> None:
    episodes = [Episode(id=s.id, text=s.text, at=round(s.at.timestamp() * 1000), role=s.role) for s in said]
    for start in range(0, len(episodes), 100):
        progress(f"remembering: {start} of {len(episodes)}")
        await memory.keep(WHOSE, episodes[start : start + 100])


async def listed(memory: Memory, question: str) -> list[str]:
    """What was found, best first."""
    hits = await memory.recall(WHOSE, question, limit=DEPTH, max_tokens=10**9)
    return [hit.item.id for hit in hits if isinstance(hit.item, Episode)]


def reciprocal(*lists: Sequence[str]) -> list[str]:
    scores: dict[str, float] = {}
    for each in lists:
        for rank, name in enumerate(each, 1):
            scores[name] = scores.get(name, 0.0) + 1 / (K + rank)
    return sorted(scores, key=lambda name: (-scores[name], name))


async def lists_of(data: Data) -> dict[str, list[list[str]]]:
    """By way: for each question, what was found."""
    plain = InMemoryMemory(embedder=None, max_records=10**6)
    await told(plain, data.said)
    lists = {WAYS[0]: [await listed(plain, asked.question) for asked in data.asked]}
    await plain.close()
    if not local_is_installed():
        return lists
    both = InMemoryMemory(embedder="local", max_records=10**6)
    await told(both, data.said)
    near = Memory(
        both.store,
        embedder=both.vectors.embedder,
        settings=msgspec.structs.replace(both.settings, weights=Weights(words=0)),
    )
    lists[WAYS[1]] = [await listed(near, asked.question) for asked in data.asked]
    pairs = zip(lists[WAYS[0]], lists[WAYS[1]], strict=True)
    lists[WAYS[2]] = [reciprocal(words, vectors) for words, vectors in pairs]
    lists[WAYS[3]] = [await listed(both, asked.question) for asked in data.asked]
    await both.close()
    return lists


def judged(data: Data, way: str, lists: Sequence[Sequence[str]]) -> Found:
    ranks = [
        next((rank for rank, name in enumerate(found, 1) if name in asked.evidence), None)
        for asked, found in zip(data.asked, lists, strict=True)
    ]
    among = [rank is not None and rank <= 5 for rank in ranks]
    classes: dict[str, list[bool]] = {}
    for asked, is_among in zip(data.asked, among, strict=True):
        classes.setdefault(str(asked.overlap), []).append(is_among)
    return Found(
        data.name,
        way,
        len(ranks),
        sum(among) / len(ranks),
        sum([1 / rank for rank in ranks if rank]) / len(ranks),
        {name: f"{sum(each)} of {len(each)}" for name, each in sorted(classes.items())},
    )


def table(found: Sequence[Found]) -> str:
    head = "| data set | way | recall@5 | MRR | by shared words |\n|---|---|---|---|---|"
    body = [
        f"| {f.data}, {f.questions} questions | {f.way} | {f.recall_at_5:.0%} | {f.mrr:.2f} | "
        + (", ".join([f"{name}: {count}" for name, count in f.at_5.items() if name != "None"]) or "-")
        + " |"
        for f in found
    ]
    return "\n".join([head, *body])


def main() -> None:
    parser = argparse.ArgumentParser(description="How well memory finds what was said.")
    parser.add_argument(
        "--quick", action="store_true", help="few episodes and questions; the figures mean nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything")
    parser.add_argument(
        "--data", type=Path, action="append", metavar="FOLDER", help="a further data set", default=[]
    )
    parser.add_argument(
        "--episodes", type=int, default=2_000, help="of the generated data set (default: 2000)"
    )
    asked = parser.parse_args()
    sets = [read(folder) for folder in (ROOT / "tests" / "memory" / "recall", *asked.data)]
    said, questions = retold(60 if asked.quick else asked.episodes)
    sets.append(Data("retelling", msgspec.convert(said, list[Said]), msgspec.convert(questions, list[Asked])))
    if asked.quick:
        sets = [Data(d.name, d.said[:60], d.asked[:5]) for d in sets]
    found = []
    for data in sets:
        found += [judged(data, way, lists) for way, lists in asyncio.run(lists_of(data)).items()]
    progress("")
    print(table(found))
    print(f"\n{machine()}; the generated set is the same each time.")
    if not local_is_installed():
        print('Words alone: for vectors, pip install "shipworthy[local]".')
    if asked.json:
        asked.json.write_text(json.dumps([msgspec.to_builtins(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
