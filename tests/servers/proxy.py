"""A way to a server on loopback that can be cut at a chosen moment.

    with Proxy(port) as proxy:
        proxy.fault(b"the-run", "lose the answer")     # strikes once, at the first request that holds these bytes
        ...
        assert proxy.struck == 1

A fault strikes at a request, which is what the client sends at one time:

    lose the request     the server never sees it, and both ends are told that the connection is over
    lose the answer      the server has done it, and the client learns only that the connection is over
    reset                as above, by a reset
    stall                the server has done it, and nobody hears any more of this connection, until `let_go`
    hold                 the request stays here; `let_go` sends it after all, though the client has gone

`refuse` closes every connection and takes no more until `accept`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from typing import Literal, Self

How = Literal["lose the request", "lose the answer", "reset", "stall", "hold"]
_READY = (b"Z\x00\x00\x00\x05I", b"Z\x00\x00\x00\x05T", b"Z\x00\x00\x00\x05E")
"""How PostgreSQL's answer to a request ends: it is ready for the next, outside or inside a transaction."""


class Proxy:
    """Passes bytes between clients and the server on *port* of 127.0.0.1. `port` is its own."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.struck = 0
        self._faults: list[tuple[bytes, How]] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._refusing = False
        self._free, self._struck = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self.refuse()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def dsn(self, dsn: str) -> str:
        """The same database, by way of this proxy."""
        return dsn.replace(f":{self._upstream}/", f":{self.port}/")

    def fault(self, needle: bytes, how: How, times: int = 1) -> None:
        """Let something go wrong at the next *times* requests that hold *needle*."""
        with self._lock:
            self._faults.extend((needle, how) for _ in range(times))

    def until_struck(self) -> None:
        """Until something went wrong for the first time, and the server had done what it was to do."""
        assert self._struck.wait(30)

    def refuse(self) -> None:
        """Nobody gets through any more."""
        with self._lock:
            self._refusing = True
            ends = list(self._open)
        for end in ends:
            _shut(end)

    def accept(self) -> None:
        """Take connections again."""
        self._refusing = False

    def let_go(self) -> None:
        """Go on with what stalls, and send what was held."""
        self._free.set()

    # on threads

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.ExitStack() as stack:
                stack.callback(client.close)
                if self._refusing:
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self._upstream))
                except OSError:
                    continue
                stack.pop_all()
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            self._open |= {client, server}
        try:
            with contextlib.suppress(OSError):
                self._pass(client, server)
        finally:
            with self._lock:
                self._open -= {client, server}
            client.close()
            server.close()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([client, server], [], [])
            if server in ready:
                if not (data := server.recv(1 << 20)):
                    return
                client.sendall(data)
            if client in ready:
                if not (data := client.recv(1 << 20)):
                    return
                if (how := self._strikes(data)) is not None:
                    self._strike(how, client, server, data)
                    return
                server.sendall(data)

    def _strikes(self, data: bytes) -> How | None:
        with self._lock:
            for i, (needle, how) in enumerate(self._faults):
                if needle in data:
                    del self._faults[i]
                    self.struck += 1
                    return how
        return None

    def _strike(self, how: How, client: socket.socket, server: socket.socket, data: bytes) -> None:
        if how == "hold":
            self._struck.set()
            self._free.wait()
            server.sendall(data)
            server.recv(1 << 20)
        elif how != "lose the request":
            server.sendall(data)
            _until_done(client, server)
        self._struck.set()
        if how == "stall":
            self._free.wait()
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _until_done(client: socket.socket, server: socket.socket) -> None:
    """Until the server has answered all that comes; in the middle of a pipeline it only falls silent."""
    said = b""
    while not said.endswith(_READY):
        ready, _, _ = select.select([client, server], [], [], 0.1 if said else None)
        if not ready:
            return
        for end in ready:
            if not (data := end.recv(1 << 20)):
                return
            if end is server:
                said += data
            else:
                server.sendall(data)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
