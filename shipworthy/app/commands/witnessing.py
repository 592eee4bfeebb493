"""`shipworthy audit witness`: keep the checkpoints of others' audit logs, until told to stop."""

from __future__ import annotations

import os
import signal
import ssl
import threading
from pathlib import Path

import msgspec

from shipworthy.app.anchors import TOKEN
from shipworthy.app.commands.printing import OK, Printer
from shipworthy.errors import ConfigurationError

SHORTEST = 16


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the command was asked for."""

    listen: str
    folder: Path
    accept: tuple[str, ...]
    certificate: Path | None
    key: Path | None
    as_json: bool


def serve(request: Request) -> int:
    """Listen until SIGTERM or SIGINT; gives the exit code."""
    from shipworthy.adapters.anchors.server import WitnessServer
    from shipworthy.adapters.anchors.witness import Witness

    printer = Printer(as_json=request.as_json)
    host, port = _listen(request.listen)
    token = _token()
    context = _context(request.certificate, request.key)
    witness = Witness(request.folder, accept=request.accept)
    witness.prepare()
    try:
        server = WitnessServer(witness, host, port, token=token, context=context)
    except OSError as error:
        raise ConfigurationError(
            f"Nobody can listen on {request.listen}: {error.strerror or error}.",
            fix="Pass --listen an address of this machine, with a port that is free.",
        ) from None
    # `shutdown` waits for the loop, which is on this thread.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    _say(printer, server.address, token, context is not None)
    with server:
        server.serve_forever(poll_interval=0.2)
    return OK


def _say(printer: Printer, address: str, token: str, secure: bool) -> None:
    if printer.as_json:
        printer.emit({"witness": {"address": address, "token": bool(token), "tls": secure}})
        return
    printer.say(f"A witness on {address}{' (TLS)' if secure else ''}. Ctrl-C ends it; what it keeps stays.")
    if not token:
        printer.say(f"Whoever reaches it may send checkpoints and read them: set {TOKEN} to change that.")


def _listen(text: str) -> tuple[str, int]:
    """Host and port. Raises ConfigurationError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigurationError(
            f"{text!r} is not an address.", fix="Pass --listen HOST:PORT, or [::1]:PORT."
        )
    return host, int(port)


def _token() -> str:
    token = os.environ.get(TOKEN, "")
    if token and (len(token) < SHORTEST or not token.isascii() or not token.isprintable()):
        raise ConfigurationError(
            f"{TOKEN} is not a token of at least {SHORTEST} printable ASCII characters.",
            fix='python -c "import secrets; print(secrets.token_urlsafe(32))" makes one.',
        )
    return token


def _context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    fix = "Pass --cert the chain and --key its key, both in PEM, and readable here."
    if certificate is None:
        raise ConfigurationError("--key is given, and --cert is not.", fix=fix)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"The certificate cannot be used: {error}.", fix=fix) from None
    return context
