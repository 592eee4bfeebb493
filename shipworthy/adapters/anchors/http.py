"""An anchor behind HTTP: a witness (server.py) that somebody else runs, or whoever speaks its protocol.

POST URL?name=NAME          body: a checkpoint's line. 201 it is kept, 200 it was kept before, both with its root as
                            body; 409 it would go back; 400, 401, 403, 413, 503: it is not kept, the body says why
GET URL?name=NAME&newest    a line for each log, then an empty one
GET URL?name=NAME           every line, then an empty one, without which the answer was cut off
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from urllib.parse import urlencode, urlsplit

from shipworthy.adapters.shared.checkpoints import LONGEST, checked
from shipworthy.errors import AnchorError, AnchorRefused, ConfigurationError

_SAID = 4096
_LOGS = 10_000
"""Logs of one name of which a witness is heard: what a false one sends has an end."""
_CHUNK = 1 << 16
_HERE = ("localhost", "127.0.0.1", "::1")
_AWAY = "Look at the witness and at the way to it; the checkpoint is sent again."
_FIXES = {
    401: 'Pass the witness\'s token: headers={"Authorization": "Bearer ..."}.',
    403: "After a key was rotated, tell the witness: `shipworthy audit witness --accept <the new public key>`.",
}
_LOST = (http.client.HTTPException, OSError)


class HttpAnchor:
    """Checkpoints kept by a witness, which checks their signatures and decides by itself what it takes.

    *headers* are sent with each request, such as a token. *timeout*: seconds for connecting, and for each answer.
    Certificates are verified, by *context* where the system's authorities do not know the witness. Redirections are not
    followed. *allow_http*: take an address without TLS that is not on this machine.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        context: ssl.SSLContext | None = None,
        allow_http: bool = False,
    ) -> None:
        self._host, self._port, self._path, self._secure = _parts(url, allow_http)
        self._headers = _checked_headers(headers or {})
        self._timeout, self._context = timeout, context
        self._lock = threading.Lock()
        self._line: http.client.HTTPConnection | None = None

    @property
    def where(self) -> str:
        """Its address."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        port = "" if self._port is None else f":{self._port}"
        return f"The anchor http{'s' if self._secure else ''}://{host}{port}{self._path}"

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        """Keep this checkpoint: the witness has said so when it returns."""
        head = checked(self.where, name, log, entries, line)
        status, said = self._post(f"{self._path}?{urlencode({'name': name})}", line)
        if status == 409:
            raise AnchorRefused(f"{self.where} refused: {_shown(said)}")
        if status not in (200, 201):
            raise self._refused(status, said)
        if said.strip() != head.root.encode():
            raise AnchorError(
                f"{self.where} answers, but does not say what it kept: it is no witness.",
                fix="Correct the address: it is the one that `shipworthy audit witness` listens on, or its proxy's.",
            )

    def newest(self, name: str) -> Sequence[bytes]:
        """Of each log under this name, the checkpoint of the most entries."""
        with closing(self._lines(urlencode({"name": name, "newest": ""}))) as lines:
            found = list(islice(lines, _LOGS + 1))
        if len(found) > _LOGS:
            raise AnchorError(
                f"{self.where} has more than {_LOGS:,} logs of the name {name!r}.",
                fix="Look who sends them: a name is one service's.",
            )
        return found

    def all(self, name: str) -> Iterator[bytes]:
        """Every checkpoint under this name, as the witness sends them."""
        return self._lines(urlencode({"name": name}))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._leave()

    # requests

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The answer; asked for again where a connection from last time is over, since doing so twice does nothing."""
        with self._lock:
            if self._line is not None:
                try:
                    return self._posted(self._line, path, body)
                except _LOST:
                    self._leave()
            try:
                self._line = self._connection()
                return self._posted(self._line, path, body)
            except _LOST as error:
                self._leave()
                raise self._away(error) from None

    def _posted(self, line: http.client.HTTPConnection, path: str, body: bytes) -> tuple[int, bytes]:
        line.request("POST", path, body, self._headers | {"Content-Type": "application/json"})
        answer = line.getresponse()
        said = answer.read(_SAID)
        if not answer.isclosed():
            line.close()  # there is more than anybody wants
        return answer.status, said

    def _lines(self, query: str) -> Generator[bytes, None, None]:
        """The lines of an answer, on a connection of its own, until the empty one."""
        with self._asked(f"{self._path}?{query}") as answer:
            rest = b""
            while chunk := answer.read(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if not line:
                        return
                    yield line
                if len(rest) > LONGEST:
                    break
        raise AnchorError(f"{self.where} did not send all that it has, or no checkpoints.", fix=_AWAY)

    @contextmanager
    def _asked(self, path: str) -> Iterator[http.client.HTTPResponse]:
        line = self._connection()
        try:
            line.request("GET", path, headers=self._headers | {"Connection": "close"})
            answer = line.getresponse()
            if answer.status != 200:
                raise self._refused(answer.status, answer.read(_SAID))
            yield answer
        except _LOST as error:
            raise self._away(error) from None
        finally:
            line.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        context = self._context or ssl.create_default_context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)

    def _leave(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    # errors

    def _refused(self, status: int, said: bytes) -> AnchorError:
        if 300 <= status < 400:
            fix = "Pass the address that it leads to; redirections are not followed."
        else:
            fix = _FIXES.get(status, _AWAY)
        return AnchorError(f"{self.where} answered {status}: {_shown(said)}", fix=fix)

    def _away(self, error: Exception) -> AnchorError:
        if isinstance(error, ssl.SSLCertVerificationError):
            fix = "Give it a certificate that is known here, or pass context=ssl.create_default_context(cafile=...)."
        else:
            fix = _AWAY
        return AnchorError(f"{self.where} cannot be reached: {_shown(str(error).encode())}", fix=fix)


def _parts(url: str, allow_http: bool) -> tuple[str, int | None, str, bool]:
    """Host, port and path, and whether by TLS. Raises ConfigurationError, which does not repeat a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except (ValueError, AttributeError, TypeError):
        host, parts, port = "", urlsplit(""), None
    plain = host and parts.scheme in ("http", "https") and "@" not in parts.netloc
    if not plain or parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(
            "The address of the witness cannot be used.",
            fix="Pass https://host:port/path, without user, password or query; a token goes into headers=.",
        )
    if parts.scheme == "http" and host not in _HERE and not allow_http:
        raise ConfigurationError(
            f"The witness on {host} is to be reached without TLS: anybody on the way could answer for it.",
            fix="Use https://, or pass allow_http=True where the way is protected otherwise.",
        )
    return host, port, parts.path or "/", parts.scheme == "https"


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str) and (name + value).isprintable()):
            raise ConfigurationError(
                f"The header {name!r} cannot be sent.", fix="Pass texts of printable characters."
            )
        try:
            (name + value).encode("latin-1")
        except UnicodeEncodeError:
            raise ConfigurationError(f"The header {name!r} cannot be sent.", fix="Use ASCII.") from None
    return dict(headers)


def _shown(said: bytes) -> str:
    """What a server said, in one line."""
    text = "".join(
        letter if letter.isprintable() else " " for letter in said[:300].decode("utf-8", "replace")
    )
    return " ".join(text.split()).rstrip(".") + "."
