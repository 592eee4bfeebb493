"""The file log, broken in the ways that its laws are there to catch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shipworthy.adapters.files import audit_lane, audit_tail
from shipworthy.adapters.files.audit_lane import Appender
from shipworthy.adapters.files.audit_seal import SealFile
from shipworthy.adapters.files.audit_tail import damaged
from shipworthy.adapters.shared.filelock import FileLock
from shipworthy.adapters.shared.lane import Job, settle


def no_lock(patch: pytest.MonkeyPatch) -> None:
    """Processes do not wait for each other."""
    patch.setattr(FileLock, "__enter__", lambda self: None)
    patch.setattr(FileLock, "__exit__", lambda self, *of: None)


def early(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits is told before anything is written."""

    def hasty(self: Appender, group: list[Job[Any]]) -> None:
        settle(group)
        plain(self, group)

    plain = Appender._perform
    patch.setattr(Appender, "_perform", hasty)


def no_seal(patch: pytest.MonkeyPatch) -> None:
    """Nothing is sealed but the beginning."""
    patch.setattr(SealFile, "write", lambda self, standing, seal: None)


def no_cut(patch: pytest.MonkeyPatch) -> None:
    """What is written in part is left there."""

    class Os:
        ftruncate = staticmethod(lambda fd, size: None)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    patch.setattr(audit_lane, "os", Os())


def stern(patch: pytest.MonkeyPatch) -> None:
    """A torn end is called tampering."""

    def over(self: audit_tail._Walk, lines: list[Any]) -> bool:
        if any([not self._fits(*line) for line in lines]):
            raise damaged("edited", "it is torn")
        return False

    patch.setattr(audit_tail._Walk, "over", over)


def trusting(patch: pytest.MonkeyPatch) -> None:
    """The tail is taken as it is: nothing is authentic or not."""
    patch.setattr(audit_tail, "_is_made", lambda key, begin, line, entry: True)
    patch.setattr(audit_lane.Appender, "_goes_on", lambda self, standing: None)
    patch.setattr(audit_lane.Appender, "_is_followed", lambda self, files: None)


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None] | None] = {
    "": None,
    "no_lock": no_lock,
    "early": early,
    "no_seal": no_seal,
    "no_cut": no_cut,
    "stern": stern,
    "trusting": trusting,
}


@contextlib.contextmanager
def broken(name: str) -> Iterator[None]:
    """The log with this mutant, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        if (mutate := MUTANTS[name]) is not None:
            mutate(patch)
        yield


def install(name: str) -> None:
    """For the rest of this process."""
    if (mutate := MUTANTS[name]) is not None:
        mutate(pytest.MonkeyPatch())
