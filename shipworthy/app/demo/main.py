"""`shipworthy demo`: play the story, check the claims, say so."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shipworthy.app.commands.printing import ERROR, OK, Printer
from shipworthy.app.demo import local
from shipworthy.app.demo.checks import check
from shipworthy.app.demo.show import Show
from shipworthy.app.demo.story import Setting, Story
from shipworthy.errors import ConfigurationError

_MUTANTS = ("twice",)


def demo(model: str | None, keep: Path | None, *, fast: bool, mutant: str | None, as_json: bool) -> int:
    """Everything; gives the exit code."""
    if mutant is not None and mutant not in _MUTANTS:
        raise ConfigurationError(f"There is no mutant {mutant!r}.", fix=f"There are: {', '.join(_MUTANTS)}.")
    printer = Printer(as_json=as_json)
    with printer.user_code(), _folder(keep) as folder, _model(model) as (name, base_url):
        setting = Setting(folder=folder, model=name, base_url=base_url, mutant=mutant)
        return _play(printer, setting, model or "scripted", fast=fast, kept=keep)


def _play(printer: Printer, setting: Setting, model: str, *, fast: bool, kept: Path | None) -> int:
    show = Show(printer, fast=fast)
    began = time.monotonic()
    git = "a real git repository" if shutil.which("git") else "git is not installed: no code to search"
    show.opening(model, str(kept or setting.folder), git)
    evidence = asyncio.run(Story(setting, show).play())
    show.journals(evidence)
    claims = check(evidence)
    seconds = time.monotonic() - began
    show.claims(claims)
    show.closing(claims, seconds, str(kept) if kept else None)
    ok = all([claim.ok is not False for claim in claims])
    if printer.as_json:
        runs = [
            {"tenant": tenant, "run_id": run_id, "events": len(j)}
            for (tenant, run_id), j in evidence.journals.items()
        ]
        printer.emit(
            {
                "ok": ok,
                "model": model,
                "mutant": setting.mutant,
                "claims": msgspec.to_builtins(claims),
                "runs": runs,
                "folder": str(kept) if kept else None,
                "seconds": round(seconds, 2),
            }
        )
    return OK if ok else ERROR


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where everything is made: a new folder that stays, or one that goes."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="shipworthy-demo-", ignore_cleanup_errors=True) as made:
            yield Path(made)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigurationError(f"{keep} is there already, and not empty.", fix="Name a new folder.")
    yield keep.resolve()


@contextlib.contextmanager
def _model(model: str | None) -> Iterator[tuple[str | None, str | None]]:
    """The model's name, and the address of the local server where that is meant."""
    if model != "local":
        yield model, None
        return
    with local.serve() as address:
        yield local.NAME, address
