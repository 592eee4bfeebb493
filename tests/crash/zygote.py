"""A small process without threads that has everything imported, and forks a child for each job.

It reads jobs from its standard input, one JSON object a line, and answers with `{"pid": ...}`; of each change of a
child (it ended, was stopped, goes on) it tells with `{"changed": pid, "status": ...}`. `Zygote` is its client.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

PATIENCE = 90.0
"""Seconds after which a child hangs: it is made to write its stacks, and killed."""


class Child:
    """A process that does one job."""

    def __init__(self, zygote: Zygote, pid: int, log: Path) -> None:
        self._zygote, self.pid, self.log = zygote, pid, log

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended already."""
        self._zygote.read(0.0)
        return self.pid in self._zygote.ended

    @property
    def stopped(self) -> bool:
        """Whether it is known to be stopped."""
        self._zygote.read(0.0)
        return self.pid in self._zygote.stopped

    def wait(self) -> int:
        """The exit code; a negative one is the number of the signal that ended it."""
        self._until(self._zygote.ended)
        return os.waitstatus_to_exitcode(self._zygote.ended.pop(self.pid))

    def wait_stopped(self) -> None:
        """Until it is stopped."""
        self._until(self._zygote.stopped)
        self._zygote.stopped.discard(self.pid)

    def _until(self, where: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.pid not in where:
            if self.pid in self._zygote.ended:
                raise AssertionError(f"The child ended.\n{self.log.read_text()}")
            if time.monotonic() > deadline:
                self._hung()
            self._zygote.read(1.0)

    def _hung(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGABRT)  # faulthandler writes the stacks of all threads
        time.sleep(1.0)
        self.signal(signal.SIGKILL)
        raise AssertionError(f"The child hung.\n{self.log.read_text()}")


class Zygote:
    """Starts children, and knows what became of them. Several threads may use it."""

    def __init__(self, child: str = "tests.crash.child") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote", child],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout.fileno()
        self._buffer = b""
        self._started: list[int] = []
        self._starting, self._reading = threading.Lock(), threading.Lock()
        self.ended: dict[int, int] = {}
        self.stopped: set[int] = set()

    def start(self, job: dict[str, Any], log: Path) -> Child:
        """A child that does *job* and says what it has to say in *log*."""
        assert self._process.stdin is not None
        with self._starting:
            self._process.stdin.write(json.dumps(job | {"log": str(log)}).encode() + b"\n")
            self._process.stdin.flush()
            while not self._started:
                self.read(1.0)
            return Child(self, self._started.pop(), log)

    def read(self, seconds: float) -> None:
        """Take in what the zygote tells, waiting for it, or for another thread that does so, at most this long."""
        with self._reading:
            self._take_in(min(seconds, 0.01) if threading.active_count() > 1 else seconds)

    def _take_in(self, seconds: float) -> None:
        while select.select([self._out], [], [], seconds)[0]:
            seconds = 0.0
            data = os.read(self._out, 65536)
            if not data:
                raise AssertionError("The zygote has ended.")
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, told: dict[str, int]) -> None:
        if "pid" in told:
            self._started.append(told["pid"])
        elif os.WIFSTOPPED(told["status"]):
            self.stopped.add(told["changed"])
        elif not os.WIFCONTINUED(told["status"]):
            self.ended[told["changed"]] = told["status"]

    def close(self) -> None:
        """End the zygote."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        os.close(os.dup(self._out))
        if self._process.stdout is not None:
            self._process.stdout.close()


# in the zygote


def _tell(what: dict[str, int]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        except ChildProcessError:
            return
        if not pid:
            return
        _tell({"changed": pid, "status": status})


def _be_child(job: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable(2)
    code = 1
    try:
        importlib.import_module(sys.argv[1]).main(job)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    importlib.import_module(sys.argv[1]).preload()
    gc.freeze()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    buffer = b""
    while True:
        ready = select.select([0, wake_read], [], [])[0]
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        _reap()
        if 0 not in ready:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            if not (pid := os.fork()):
                os.close(wake_read)
                os.close(wake_write)
                _be_child(json.loads(line))
            _tell({"pid": pid})


if __name__ == "__main__":
    _serve()
