"""The world outside the journal: files that a support desk keeps. Nothing here knows of agents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WORDS = re.compile(r"\w{3,}")


class Ledger:
    """What was really done, one JSON line each, in a file that is only appended to and synced: the one witness of
    effects that no journal can talk into anything."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, kind: str, reference: str, **details: Any) -> None:
        """Do it: from the moment this returns, it has happened."""
        done = {"kind": kind, "reference": reference, "at": time.time_ns() // 1_000_000, "pid": os.getpid()}
        line = json.dumps(done | details) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)

    def entries(self) -> list[dict[str, Any]]:
        """Everything that was done, in its order."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]

    def find(self, reference: str) -> dict[str, Any] | None:
        """What was done under this reference."""
        return next((entry for entry in self.entries() if entry["reference"] == reference), None)


class Notes:
    """Notes on customers, a file for each key: writing the same one again changes nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, key: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"{key}.{os.getpid()}.draft"
        draft.write_text(text, "utf-8")
        draft.replace(self.folder / f"{key}.txt")

    def all(self) -> dict[str, str]:
        return {path.stem: path.read_text("utf-8") for path in sorted(self.folder.glob("*.txt"))}


class Documents:
    """A folder of Markdown files, searched paragraph by paragraph."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def search(self, query: str, limit: int = 3) -> list[str]:
        """The paragraphs with most of the query's words, each with the name of its file."""
        wanted = set(_WORDS.findall(query.lower()))
        scored = [(len(wanted & set(_WORDS.findall(p.lower()))), name, p) for name, p in self._paragraphs()]
        best = sorted([hit for hit in scored if hit[0]], key=lambda hit: -hit[0])
        return [f"{name}: {paragraph}" for _, name, paragraph in best[:limit]]

    def _paragraphs(self) -> Iterator[tuple[str, str]]:
        for path in sorted(self.folder.glob("*.md")):
            for paragraph in path.read_text("utf-8").split("\n\n"):
                if paragraph.strip() and not paragraph.startswith("#"):
                    yield path.name, " ".join(paragraph.split())


class Repository:
    """A git repository, read through git itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def search(self, query: str) -> list[str]:
        """Commits whose message has one of the query's words, newest first: hash, date and subject."""
        words = _WORDS.findall(query)
        found = [f"--grep={re.escape(word)}" for word in words]
        return (
            git(self.folder, "log", "-i", "-E", *found, "--date=short", "--format=%h %ad %s").splitlines()
            if words
            else []
        )

    def show(self, path: str, revision: str) -> str:
        """A file as it was at a revision. Raises LookupError."""
        try:
            return git(self.folder, "show", "--end-of-options", f"{revision}:{path}")
        except subprocess.CalledProcessError as error:
            raise LookupError(error.stderr.strip()) from None


def git(folder: Path, *arguments: str, at: str | None = None) -> str:
    """What git prints, whatever the user's own configuration says; commits are dated *at*."""
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Mira",
        "GIT_AUTHOR_EMAIL": "mira@tidewatch.example",
        "GIT_COMMITTER_NAME": "Mira",
        "GIT_COMMITTER_EMAIL": "mira@tidewatch.example",
    }
    for name in (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
    ):  # set in hooks: they would lead to another repository
        environment.pop(name, None)
    if at is not None:
        environment |= {"GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout
