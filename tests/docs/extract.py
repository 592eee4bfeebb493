"""Finds the blocks of a Markdown page that are to be run. Knows the standard library only."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent>\s*)(?P<ticks>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")
COMMENT = re.compile(r"^<!--\s*(?P<text>.*?)\s*-->$")
PYTHON = frozenset({"py", "python", "python3"})
CONSOLE = frozenset({"console"})


class BadMarker(Exception):
    """A comment before a block that means to say `run` or `not run: reason`, and does not."""


@dataclass(frozen=True)
class Block:
    """One fenced block: where its first line of code stands (1-based), and what its comment said."""

    language: str
    line: int
    source: str
    comment: str

    def runs(self, path: Path) -> bool:
        """Whether it is to be run: Python unless opted out with a reason, console only if asked for."""
        where = f"{path}:{self.line - 1}"
        if self.language in PYTHON:
            if not self.comment.startswith("not run"):
                return True
            if not re.fullmatch(r"not run:\s*\S.*", self.comment):
                raise BadMarker(f"{where}: say why: <!-- not run: reason -->")
        if self.language in CONSOLE and self.comment.lower().startswith("run") and self.comment != "run":
            raise BadMarker(f"{where}: commands are run after exactly <!-- run -->")
        return self.language in CONSOLE and self.comment == "run"


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of *text* in order, with the comment on the line before it."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        opening = FENCE.match(lines[at])
        if opening is None:
            at += 1
            continue
        closing = re.compile(rf"^\s*{re.escape(opening['ticks'])}{opening['ticks'][0]}*\s*$")
        end = next((i for i in range(at + 1, len(lines)) if closing.match(lines[i])), len(lines))
        source = textwrap.dedent("\n".join(lines[at + 1 : end])) + "\n"
        yield Block(opening["language"].lower(), at + 2, source, _comment_before(lines, at))
        at = end + 1


def _comment_before(lines: list[str], at: int) -> str:
    before = next((line for line in reversed(lines[:at]) if line.strip()), "")
    comment = COMMENT.match(before.strip())
    return comment["text"] if comment else ""


def runnable(path: Path) -> list[Block]:
    """The blocks of the file at *path* that are to be run, in order."""
    return [block for block in blocks(path.read_text(encoding="utf-8")) if block.runs(path)]
