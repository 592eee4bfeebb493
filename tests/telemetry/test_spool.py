"""The thread behind telemetry outlives whatever an exporter raises, and costs nothing where nothing is to be told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shipworthy.adapters.shared import spool as module
from shipworthy.adapters.shared.spool import Spool


def outlives(error: BaseException, kind: type[Spool] = Spool) -> bool:
    """The law: whatever a job raises, those after it are done."""
    done: list[int] = []

    def work(job: int) -> None:
        if job == 0:
            raise error
        done.append(job)

    spool = kind("test", work, 10)
    spool.put(0)
    spool.flush(0.3)
    spool.put(1)
    return spool.flush(0.3) and done == [1] and spool.failed == 1


@pytest.mark.parametrize(
    "error", [OSError("x"), asyncio.CancelledError(), SystemExit(1), KeyboardInterrupt()]
)
def test_whatever_an_exporter_raises_the_next_is_told(error: BaseException) -> None:
    assert outlives(error)


class OnlyExceptions(Spool):
    """A mutant: an exit ends the thread."""

    def _do(self, job: Any) -> None:
        try:
            self._work(job)
        except Exception:
            self.failed += 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_mutant_an_error_that_ends_the_thread_is_found() -> None:
    assert not outlives(asyncio.CancelledError(), OnlyExceptions)


def test_where_no_thread_is_to_be_had_the_next_job_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    spool = Spool("test", done.append, 10)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _refuse)
        assert spool.put(1)
    assert spool.put(2)
    assert spool.flush(5)
    assert done == [1, 2]


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_thread_that_has_nothing_to_do_ends_and_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE", 0.01)
    monkeypatch.setattr(module, "MOMENT", 0.001)
    done: list[int] = []
    spool = Spool("test-idle", done.append, 10)
    for job in range(3):
        spool.put(job)
        assert spool.flush(5)
        until = time.monotonic() + 5
        while any([thread.name == "test-idle" for thread in threading.enumerate()]):
            assert time.monotonic() < until
            time.sleep(0.005)
    assert done == [0, 1, 2]


@pytest.fixture
def hangs() -> Iterator[Callable[[Any], None]]:
    go_on = threading.Event()

    def hang(job: Any) -> None:
        go_on.wait(10)

    yield hang
    go_on.set()


def test_all_of_them_together_keep_a_process_for_so_long_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, hangs: Callable[[Any], None]
) -> None:
    quick: list[int] = []
    spools = [*[Spool("test", hangs, 10) for _ in range(4)], Spool("test", quick.append, 10)]
    for spool in spools:
        spool.put(1)
    monkeypatch.setattr(module, "AT_EXIT", 0.2)
    begun = time.monotonic()
    module._finish()
    assert 0.2 <= time.monotonic() - begun < 0.7
    assert quick == [1], "who is quick does not wait for who hangs"


def test_a_queue_that_is_half_full_wakes_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOMENT", 30.0)
    seen = threading.Event()
    spool = Spool("test", lambda job: seen.set() if job == 5 else None, 10)
    spool.put(0)
    until = time.monotonic() + 5
    while spool._done < 1 or spool._busy or spool._bell.is_set():  # it sleeps on what it did
        assert time.monotonic() < until
        time.sleep(0.001)
    for job in range(1, 6):
        spool.put(job)
    assert not seen.is_set()
    spool.put(6)
    assert seen.wait(5)
    assert spool.close(5)
