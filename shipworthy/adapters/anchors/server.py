"""The witness as a server: HTTP for `Witness`, by the standard library. The protocol is in http.py.

Total on whatever is sent, and bounded: in a request's size, in how long one may take, and in how many come at once.
"""

from __future__ import annotations

import hmac
import logging
import socket
import ssl
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from shipworthy.adapters.anchors.witness import AnotherSigner, NoCheckpoint, Witness
from shipworthy.adapters.shared.checkpoints import LONGEST
from shipworthy.errors import AnchorError, AnchorRefused

AT_ONCE = 64
"""Connections that are served at once; one more is closed at once."""
SILENCE = 10.0
"""Seconds after which a client that sends nothing is left."""
_log = logging.getLogger("shipworthy.witness")


class WitnessServer(ThreadingHTTPServer):
    """A server for *witness* on *host* and *port* (0: a free one). *token*: what requests must have; "" for none.
    *context*: for TLS by the server itself, without a proxy."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        witness: Witness,
        host: str,
        port: int,
        *,
        token: str = "",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.witness, self.token = witness, token.encode()
        self._free = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((host, port), _Handler)
        if context is not None:
            # The handshake is made where the request is read: a client that makes none holds up nobody else.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def address(self) -> str:
        """Where it listens."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def server_bind(self) -> None:
        """Bind, without asking what the machine is called."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it on a thread of its own, unless too many are served."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            _log.warning("%d connections at once: one more was closed", AT_ONCE)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """On the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or spoke no TLS, is nobody's problem."""
        _log.debug("a connection ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "shipworthy-witness"
    sys_version = ""
    timeout = SILENCE
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    @property
    def _server(self) -> WitnessServer:
        assert isinstance(self.server, WitnessServer)
        return self.server

    def do_POST(self) -> None:
        """Keep a checkpoint."""
        body = self._body()
        if body is None:
            return
        name = self._name()
        if name is None:
            self._say(400, "The query has no name, or none that is text.")
            return
        try:
            head, is_new = self._server.witness.keep(name, body)
        except AnchorError as error:
            level = logging.INFO if isinstance(error, NoCheckpoint) else logging.WARNING
            _log.log(level, "refused from %s: %s", self.client_address[0], error)
            self._say(_status(error), str(error))
        except Exception:
            _log.exception("a request failed")
            self._say(500, "The witness failed; its log says how.")
        else:
            self._say(201 if is_new else 200, head.root)

    def do_GET(self) -> None:
        """Tell what is kept."""
        if not self._may():
            return
        name = self._name()
        if name is None:
            self._say(400, "This is a witness. The query has no name, or none that is text.")
            return
        witness = self._server.witness
        is_newest = "newest" in parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        try:
            lines: Iterable[bytes] = witness.newest(name) if is_newest else witness.all(name)
            self._tell(lines)
        except AnchorError as error:
            _log.warning("cannot tell: %s", error)
            self.close_connection = True  # the answer has no end, by which the client knows

    def _tell(self, lines: Iterable[bytes]) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/jsonl")
        self.send_header("Connection", "close")
        self.end_headers()
        held: list[bytes] = []
        for line in lines:
            held.append(line + b"\n")
            if len(held) == 64:
                self.wfile.write(b"".join(held))
                held = []
        self.wfile.write(b"".join([*held, b"\n"]))

    def _body(self) -> bytes | None:
        """What was sent; None if that was answered already."""
        said = self.headers.get("Content-Length", "")
        size = int(said) if said.isascii() and said.isdigit() and len(said) < 10 else -1
        if size < 0 or "Transfer-Encoding" in self.headers:
            self._say(411, "The length of the body must be said.", over=True)
        elif size > LONGEST:
            self._say(413, f"A checkpoint has at most {LONGEST} bytes.", over=True)
        elif self._may():
            body = self.rfile.read(size)
            if len(body) == size:
                return body
            self.close_connection = True
        return None

    def _may(self) -> bool:
        said = self.headers.get("Authorization", "").encode("utf-8", "replace")
        token = self._server.token
        if not token or hmac.compare_digest(said, b"Bearer " + token):
            return True
        self._say(401, "The token is missing, or another one.", over=True)
        return False

    def _name(self) -> str | None:
        try:
            query = parse_qs(
                urlsplit(self.path).query, keep_blank_values=True, errors="strict", max_num_fields=8
            )
        except (ValueError, UnicodeDecodeError):
            return None
        names = query.get("name", [])
        return names[0] if len(names) == 1 else None

    def _say(self, status: int, text: str, *, over: bool = False) -> None:
        """Answer in one line. *over*: what is still on its way from the client is not read."""
        self.close_connection = self.close_connection or over
        body = text.encode("utf-8", "replace") + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """To the log, not to stderr."""
        _log.debug("%s " + format, self.client_address[0], *args)


def _status(error: AnchorError) -> int:
    match error:
        case AnchorRefused():
            return 409
        case NoCheckpoint():
            return 400
        case AnotherSigner():
            return 403
        case _:
            return 503
