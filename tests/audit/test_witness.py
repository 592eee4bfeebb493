"""The witness decides by itself, is total on whatever it is sent, and its client believes nobody who is none."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shipworthy.adapters.anchors import http as clients
from shipworthy.adapters.anchors import server as servers
from shipworthy.adapters.anchors import witness as deciding
from shipworthy.adapters.anchors.http import HttpAnchor
from shipworthy.adapters.anchors.server import WitnessServer
from shipworthy.app.cli import invoke
from shipworthy.errors import AnchorError, AnchorRefused, ConfigurationError
from shipworthy.rules.audit import form
from shipworthy.rules.audit.signatures import public_of, sign
from shipworthy.testing.contracts.anchors import Log
from tests.audit.witnesses import a_witness

BEARER = {"Authorization": "Bearer a-token"}


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WitnessServer]:
    with a_witness(tmp_path_factory.mktemp("witness")) as server:
        yield server


_made: list[HttpAnchor] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Every anchor of `to` is closed in the end."""
    yield
    while _made:
        _made.pop().close()


def to(url: str, **options: Any) -> HttpAnchor:
    _made.append(HttpAnchor(url, **options))
    return _made[-1]


def at(server: WitnessServer, **options: Any) -> HttpAnchor:
    return to(f"http://{server.address}", **options)


class Stolen(Log):
    """A log whose checkpoints somebody else signs."""

    def __init__(self, name: str, *, id: str = "", history: str = "") -> None:
        super().__init__(name, id=id, history=history)
        self.seed = bytes(32)


# what it takes


def test_a_signature_that_is_not_right_is_refused(witness: WitnessServer) -> None:
    log, anchor = Log("forged"), at(witness)
    line = log.at(64)
    read = form.head_of(line)
    assert read is not None
    for forged in (form.head_line(read[1], bytes(64)), form.head_line(read[1], sign(bytes(32), read[1]))):
        with pytest.raises(AnchorError, match=r"signature .* is not right"):
            anchor.put("forged", log.id, 64, forged)
    assert list(anchor.all("forged")) == []


def test_a_log_is_signed_by_whom_it_was_signed_first(witness: WitnessServer) -> None:
    log, anchor = Log("first"), at(witness)
    thief = Stolen("first", id=log.id)
    first = log.put(anchor, 64)

    with pytest.raises(AnchorError, match=r"answered 403: The log .* was signed with") as raised:
        thief.put(anchor, 128)

    assert "--accept" in raised.value.fix
    assert list(anchor.all("first")) == [first]
    Stolen("first").put(anchor, 1)  # another log of this name


def test_a_witness_that_checks_no_signature_takes_a_forged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant of the two above."""
    monkeypatch.setattr(deciding, "is_signed", lambda *_: True)
    log = Log("forged")
    read = form.head_of(log.at(64))
    assert read is not None
    with a_witness(tmp_path) as server:
        at(server).put("forged", log.id, 64, form.head_line(read[1], bytes(64)))


def test_a_witness_that_forgets_who_signed_takes_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other mutant."""
    monkeypatch.setattr(deciding._Shelf, "last", lambda *_: None)
    log = Log("first")
    with a_witness(tmp_path) as server:
        log.put(at(server), 64)
        Stolen("first", id=log.id).put(at(server), 128)


def test_a_key_that_is_accepted_may_follow_another_one(tmp_path: Path) -> None:
    log = Log("rotated")
    after = Stolen("rotated", id=log.id)
    with a_witness(tmp_path) as server:
        first = log.put(at(server), 64)
    with a_witness(tmp_path, accept=[public_of(bytes(32)).hex()]) as server:
        anchor = at(server)
        second = after.put(anchor, 128)
        assert list(anchor.all("rotated")) == [first, second]
        with pytest.raises(AnchorError, match="403"):
            log.put(anchor, 192)
        with pytest.raises(AnchorRefused):
            after.put(anchor, 127)


def test_what_it_keeps_outlives_it(tmp_path: Path) -> None:
    log = Log("kept")
    with a_witness(tmp_path) as server:
        line = log.put(at(server), 64)
    with a_witness(tmp_path) as server:
        assert list(at(server).newest("kept")) == [line]
        with pytest.raises(AnchorRefused, match="would go back"):
            log.put(at(server), 63)


def test_without_the_token_nothing_is_taken_and_nothing_told(tmp_path: Path) -> None:
    log = Log("secret")
    with a_witness(tmp_path, token="a-token") as server:
        for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": "a-token"}):
            anchor = at(server, headers=headers)
            for asks in (lambda a=anchor: log.put(a, 64), lambda a=anchor: a.newest("secret")):
                with pytest.raises(AnchorError, match="401") as raised:
                    asks()
                assert "Authorization" in raised.value.fix
        line = log.put(at(server, headers=BEARER), 64)
        assert at(server, headers=BEARER).newest("secret") == [line]


def test_a_disk_that_is_full_is_told_without_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log("full")
    with a_witness(tmp_path) as server:
        with monkeypatch.context() as broken:
            broken.setattr(
                os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device"))
            )
            with pytest.raises(
                AnchorError, match="answered 503: The witness failed: No space left"
            ) as raised:
                log.put(at(server), 64)
        assert str(tmp_path) not in str(raised.value)
        log.put(at(server), 64)


# junk


def raw(server: WitnessServer, data: bytes) -> bytes:
    """What it answers to these bytes."""
    with socket.create_connection(server.server_address[:2], 5) as line:
        try:
            line.sendall(data)
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_WR)
            said = b""
            while chunk := line.recv(65536):
                said += chunk
        except ConnectionError:
            return b""
        return said


def post(line: bytes, query: bytes = b"?name=app", headers: bytes = b"") -> bytes:
    return (
        b"POST /"
        + query
        + b" HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(line)
        + headers
        + b"\r\n"
        + line
    )


GOOD = Log("app", id="a" * 32).at(64)
JUNK = {
    "nothing": (b"", b""),
    "bytes": (b"\x00\xff\xfe" * 1000 + b"\r\n\r\n", b"400"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, b""),
    "half a request": (b"POST / HTTP/1.1\r\nContent-Le", b""),
    "a long line": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
    "another method": (b"DELETE /?name=app HTTP/1.1\r\n\r\n", b"501"),
    "no name": (post(GOOD, b""), b"400"),
    "two names": (post(GOOD, b"?name=app&name=b"), b"400"),
    "a name that is no text": (post(GOOD, b"?name=%ff%fe"), b"400"),
    "another name": (post(GOOD, b"?name=other"), b"400"),
    "many fields": (post(GOOD, b"?" + b"a=b&" * 100 + b"name=app"), b"400"),
    "no length": (b"POST /?name=app HTTP/1.1\r\n\r\n" + GOOD, b"411"),
    "a length below zero": (b"POST /?name=app HTTP/1.1\r\nContent-Length: -1\r\n\r\n" + GOOD, b"411"),
    "a length that is no number": (b"POST /?name=app HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n" + GOOD, b"411"),
    "chunks": (post(GOOD, headers=b"Transfer-Encoding: chunked\r\n"), b"411"),
    "too long": (b"POST /?name=app HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + GOOD, b"413"),
    "shorter than it says": (b"POST /?name=app HTTP/1.1\r\nContent-Length: 9999\r\n\r\n" + GOOD, b""),
    "empty": (post(b""), b"400"),
    "deep": (post(b"[" * 60_000), b"400"),
    "a large number": (post(GOOD.replace(b'"entries":64', b'"entries":' + b"9" * 4000)), b"400"),
    "half a character": (post(GOOD.replace(b'"app"', b'"\\ud800"'), b"?name=app"), b"400"),
    "a short key": (post(GOOD.replace(b'"signer":"', b'"signer":"zz')), b"400"),
    "an answer without a name": (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
    "nobody's name": (b"GET /?name=%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\n\r\n", b"200"),
}


@pytest.mark.parametrize(("sent", "answered"), JUNK.values(), ids=JUNK.keys())
def test_junk_is_refused(witness: WitnessServer, sent: bytes, answered: bytes) -> None:
    said = raw(witness, sent)

    assert answered in said.partition(b"\r\n")[0]
    assert b"Traceback" not in said
    assert b"HTTP/1.1 5" not in said.replace(b"HTTP/1.1 501", b"")
    assert list(at(witness).newest("app")) == []


def test_what_is_changed_at_random_is_refused(witness: WitnessServer) -> None:
    """Of 150 requests with some of their bytes changed none is kept, save the line as it was; and it serves on."""
    chance, good = random.Random(7), Log("chance", id="b" * 32).at(64)
    for _ in range(150):
        sent = bytearray(post(good, b"?name=chance"))
        for _ in range(chance.randrange(1, 6)):
            sent[chance.randrange(len(sent))] = chance.randrange(256)
        assert b" 500 " not in raw(witness, bytes(sent)).partition(b"\r\n")[0]
    assert set(at(witness).all("chance")) <= {good}


def test_only_so_many_are_served_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever says nothing is left after a while."""
    monkeypatch.setattr(servers, "AT_ONCE", 2)
    monkeypatch.setattr(servers._Handler, "timeout", 0.2)
    with a_witness(tmp_path) as server:
        silent = [socket.create_connection(server.server_address[:2], 5) for _ in range(3)]
        assert [line.recv(1) for line in silent] == [b"", b"", b""]
        for line in silent:
            line.close()
        anchor = at(server)
        Log("app").put(anchor, 64)


# whom the client believes


@contextmanager
def somebody(*answers: bytes) -> Iterator[str]:
    """The address of whoever answers to each connection with these bytes, whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                line, _ = listening.accept()
                with line:
                    line.recv(65536)
                    line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/w"
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", "it is no witness"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", "it is no witness"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\n\x1b[2Jx", "answered 502"),
        (b"SSH-2.0-OpenSSH\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
    ],
)
def test_who_does_not_say_what_it_kept_is_not_believed(answer: bytes, what: str) -> None:
    with somebody(answer) as url, pytest.raises(AnchorError, match=what) as raised:
        Log("app").put(to(url), 64)
    assert raised.value.fix
    assert str(raised.value).isprintable()


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        OK + GOOD,
        OK + GOOD + b"\n",
        OK.replace(b"Connection", b"Content-Length: 9999\r\nConnection") + GOOD + b"\n",
        OK + b"x" * 200_000,
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_an_answer_that_was_cut_off_is_told(answer: bytes) -> None:
    with somebody(answer, answer) as url:
        for asks in (to(url).newest, to(url).all):
            with pytest.raises(AnchorError):
                list(asks("app"))


def test_an_answer_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_LOGS", 2)
    answer = OK + (GOOD + b"\n") * 3
    with somebody(answer) as url, pytest.raises(AnchorError, match="more than 2 logs"):
        to(url).newest("app")


def test_a_connection_that_was_closed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log("app")
    monkeypatch.setattr(servers._Handler, "timeout", 0.02)
    with a_witness(tmp_path) as server:
        anchor = at(server)
        log.put(anchor, 64)
        assert anchor._line is not None
        assert anchor._line.sock.recv(1) == b""
        log.put(anchor, 128)
        assert list(anchor.all("app")) == [log.at(64), log.at(128)]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signed itself, and its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, now = Ed25519PrivateKey.generate(), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "witness")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    made = made.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
    ).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.sign(key, None).public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return pem, secret


def test_a_certificate_is_verified(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    log = Log("app")
    with a_witness(tmp_path / "kept", context=context) as server:
        with pytest.raises(AnchorError, match="certificate verify failed") as raised:
            log.put(to(f"https://{server.address}"), 64)
        assert "cafile" in raised.value.fix
        assert raw(server, b"GET / HTTP/1.1\r\n\r\n")[:4] != b"HTTP"
        anchor = to(f"https://{server.address}", context=ssl.create_default_context(cafile=str(pem)))
        line = log.put(anchor, 64)
        assert list(anchor.newest("app")) == list(anchor.all("app")) == [line]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"url": "http://witness.example"}, "without TLS"),
        ({"url": "ftp://witness.example"}, "cannot be used"),
        ({"url": "https://me:hush@witness.example"}, "cannot be used"),
        ({"url": "https://witness.example/?token=hush"}, "cannot be used"),
        ({"url": "https://witness.example:port"}, "cannot be used"),
        ({"url": "https://witness.example/a b"}, "cannot be used"),
        ({"url": ""}, "cannot be used"),
        ({"url": None}, "cannot be used"),
        ({"url": "https://witness.example", "headers": {"A": "hush\r\nB: c"}}, "header 'A' cannot be sent"),
        ({"url": "https://witness.example", "headers": {"A": "hush→"}}, "header 'A' cannot be sent"),
    ],
)
def test_an_address_that_cannot_be_right_is_refused_at_once(given: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as raised:
        HttpAnchor(**given)
    assert "hush" not in str(raised.value)
    assert raised.value.fix


def test_an_address_says_where_it_is() -> None:
    assert HttpAnchor("http://10.0.0.1:8460/w", allow_http=True).where == "The anchor http://10.0.0.1:8460/w"
    assert HttpAnchor("https://[::1]").where == "The anchor https://[::1]/"


# the command


def started(folder: Path, *options: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "shipworthy.app.cli", "audit", "witness", "--dir", folder, "--json", *options],
        stdout=subprocess.PIPE,
        env=os.environ | {"SHIPWORTHY_WITNESS_TOKEN": "a-token-of-sixteen-letters"},
        text=True,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["witness"]


def test_the_command_keeps_what_it_acknowledged_when_it_is_killed(tmp_path: Path) -> None:
    log, headers = Log("app"), {"Authorization": "Bearer a-token-of-sixteen-letters"}
    process, told = started(tmp_path / "kept", "--listen", "127.0.0.1:0")
    with process:
        line = log.put(to(f"http://{told['address']}", headers=headers), 64)
        process.kill()
    process, told = started(tmp_path / "kept", "--listen", told["address"])
    with process:
        anchor = to(f"http://{told['address']}", headers=headers)
        assert told["token"] is True
        assert anchor.newest("app") == [line]
        with pytest.raises(AnchorRefused):
            log.put(anchor, 63)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("options", "token", "what"),
    [
        (["--listen", "nowhere"], "", "is not an address"),
        (["--listen", "127.0.0.1:99999"], "", "is not an address"),
        (["--listen", "192.0.2.1:80"], "", "Nobody can listen"),
        (["--accept", "abc"], "", "is not a public key"),
        (["--cert", "/dev/null"], "", "certificate cannot be used"),
        (["--key", "/dev/null"], "", "--cert is not"),
        ([], "short", "is not a token"),
    ],
)
def test_what_the_command_cannot_do_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    token: str,
    what: str,
) -> None:
    monkeypatch.setenv("SHIPWORTHY_WITNESS_TOKEN", token)
    assert invoke(["audit", "witness", "--dir", str(tmp_path), *options]) == 1
    said = capsys.readouterr()
    assert what in said.out + said.err
