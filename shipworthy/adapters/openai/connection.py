"""The way to OpenAI's API: its SDK, a client per event loop, one request per attempt, its errors as ours."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, cast

from shipworthy.adapters.shared.pace import Pace
from shipworthy.domain.model import Answer, Delta, ModelRequest
from shipworthy.domain.usage import Usage
from shipworthy.errors import (
    ConfigurationError,
    IncompleteAnswer,
    MissingExtra,
    MissingKey,
    ModelError,
    ModelUnavailable,
    RequestRejected,
    ShipworthyError,
)
from shipworthy.ports.real_calls import ensure_real_calls_allowed
from shipworthy.rules.per_loop import PerLoop
from shipworthy.rules.wire import STATUS, cleaned, failure, reported, was_sent, while_answering, with_extra

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY = "OPENAI_API_KEY"
LOCAL_KEY = "none-needed"  # the SDK insists on a key; local servers ignore it

_TRANSPORT = {"httpx", "httpx2", "httpcore", "httpcore2", "anyio", "h11", "h2"}
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError)


class Reader(Protocol):
    """Makes an answer of what the provider sends."""

    @property
    def complete(self) -> bool:
        """Has the provider said that the message is complete?"""
        ...

    def feed(self, event: Any, /) -> Iterable[Delta]:
        """Take one event of a stream."""
        ...

    def answer(self) -> Answer: ...

    def usage(self) -> Usage | None:
        """What was reported so far."""
        ...

    def whole(self, data: Any, /) -> Answer:
        """The answer of a request without streaming. Raises IncompleteAnswer."""
        ...


class Connection:
    """One model's way to its provider."""

    def __init__(
        self,
        name: str,
        api_key: str | None,
        base_url: str | None,
        client: AsyncOpenAI | Callable[[], AsyncOpenAI] | None,
    ) -> None:
        if client is not None and (api_key or base_url):
            raise ConfigurationError(f"{name} got client= beside api_key= or base_url=.", fix="Pass one.")
        self.name = name
        named = getattr(client, "base_url", None) or base_url or os.environ.get("OPENAI_BASE_URL")
        self.base_url = str(named) if named else None
        self._sdk = _sdk()
        self._key = _key(api_key, self.base_url) if client is None else ""
        self._given = client
        self._owner: asyncio.AbstractEventLoop | None = None
        self._clients: PerLoop[AsyncOpenAI] = PerLoop()
        self.pace = Pace()

    @property
    def is_openai(self) -> bool:
        """Is it OpenAI itself, and not a server that speaks its language?"""
        return self.base_url is None or "api.openai.com" in self.base_url

    async def attempt(
        self,
        request: ModelRequest,
        path: str,
        build: Callable[[ModelRequest], dict[str, Any]],
        reader: Reader,
    ) -> AsyncIterator[Delta | Answer]:
        """One HTTP request, never repeated; deltas, then the answer. Raises ModelError."""
        ensure_real_calls_allowed(self.name, self.base_url)
        body = build(request)
        options: Any = {**with_extra(body, request.settings.extra), "max_retries": 0}
        body["stream"] = request.stream
        client = self._clients.get(asyncio.get_running_loop(), self._open)
        failed: ModelError | None = None
        answer: Answer | None = None
        begun = False
        try:
            if request.stream:
                events = self._sdk.AsyncStream[object]
                stream = await client.post(
                    path, cast_to=object, body=body, options=options, stream=True, stream_cls=events
                )
                begun = True
                async with stream:
                    async for chunk in stream:
                        for delta in reader.feed(chunk):
                            yield delta
            else:
                answer = reader.whole(await client.post(path, cast_to=object, body=body, options=options))
        except Exception as error:
            failed = self._failed(error, begun, reader)
            if failed is None:
                raise
        if begun and reader.complete:
            answer = reader.answer()
        elif failed is not None:
            # Raised out here, so that the SDK's exception, with the request and its key, is no context of it.
            raise failed
        if answer is None:
            cut = IncompleteAnswer(f"The stream of {self.name} ended without its terminal event.")
            raise while_answering(cut, reported(reader.usage))
        yield answer

    async def post(self, path: str, body: dict[str, Any], *, timeout: float) -> Any:
        """The JSON that answers one HTTP request, never repeated, of an API that makes no messages. Raises
        ModelError."""
        ensure_real_calls_allowed(self.name, self.base_url)
        client = self._clients.get(asyncio.get_running_loop(), self._open)
        options: Any = {"max_retries": 0, "timeout": timeout}
        failed: ModelError | None = None
        try:
            return await client.post(path, cast_to=object, body=body, options=options)
        except Exception as error:
            failed = self._translated(error, False)
            if failed is None:
                raise
        raise failed  # out here, as in `attempt`

    async def close(self) -> None:
        """Close this loop's connections; a client that was passed in is its owner's to close."""
        client = self._clients.take(asyncio.get_running_loop())
        if client is not None and client is not self._given:
            await client.close()

    async def _heard(self, response: Any) -> None:
        """Of a client that was passed in nothing is heard: its hooks are its owner's."""
        self.pace.note(response.status_code, response.headers)

    def _open(self) -> AsyncOpenAI:
        sdk, given = self._sdk, self._given
        if given is None:
            # Not the SDK's own, which whichever loop drops it would close.
            http = sdk.DefaultAsyncHttpxClient(verify=_tls(), event_hooks={"response": [self._heard]})
            opened = sdk.AsyncOpenAI(
                api_key=self._key, base_url=self.base_url, max_retries=0, http_client=http
            )
            return cast("AsyncOpenAI", opened)
        if not isinstance(given, sdk.AsyncOpenAI):
            return cast("Callable[[], AsyncOpenAI]", given)()
        loop = asyncio.get_running_loop()
        if self._owner not in (None, loop):
            raise ConfigurationError(
                f"The client of {self.name} was used in another event loop, to which its connections belong.",
                fix="Pass a function that makes one per loop: client=lambda: AsyncOpenAI(...).",
            )
        self._owner = loop
        return cast("AsyncOpenAI", given)

    # -------------------------------------------------------------------------------------------- errors

    def _failed(self, error: Exception, begun: bool, reader: Reader) -> ModelError | None:
        """The error of an attempt, with what was reported where the answer had begun; None for what is not the
        provider's doing."""
        if isinstance(error, ModelError):  # the reader's own, of what it read
            return while_answering(error, reported(reader.usage))
        failed = None if isinstance(error, ShipworthyError) else self._translated(error, begun)
        return while_answering(failed, reported(reader.usage)) if failed is not None and begun else failed

    def _translated(self, error: Any, begun: bool) -> ModelError | None:
        """The one place where the SDK's errors become ours; None for what is not the provider's doing."""
        sdk = self._sdk
        if isinstance(error, sdk.APIStatusError) and error.status_code >= 300:
            said, headers = self._message(error), error.response.headers
            code = error.code or error.type or ""
            return failure(self.name, KEY, status=error.status_code, message=said, code=code, headers=headers)
        if isinstance(error, sdk.APIConnectionError | OSError) or _module(error) in _TRANSPORT:
            return self._unreachable(error, begun)
        if isinstance(error, (*_MALFORMED, sdk.APIStatusError, sdk.APIResponseValidationError)):
            return IncompleteAnswer(f"{self.name} sent what is not an answer ({type(error).__name__}).")
        if isinstance(error, sdk.APIError):
            return in_stream(self.name, error.code or "", error.type or "", self._message(error))
        if isinstance(error, sdk.OpenAIError):
            return RequestRejected(f"{self.name} could not be asked: {cleaned(str(error), self._secret)}")
        return None

    def _unreachable(self, error: Exception, begun: bool) -> ModelError:
        if begun:
            return IncompleteAnswer(f"The stream of {self.name} broke off ({type(error).__name__}).")
        where = self.base_url or "its provider"
        what = f"{self.name} could not be reached at {where} ({type(error).__name__})."
        return ModelUnavailable(what, billable=was_sent(error))

    def _message(self, error: Any) -> str:
        said = error.body.get("message") if isinstance(error.body, dict) else None
        return cleaned(str(said or error.message), self._secret)

    @property
    def _secret(self) -> str:
        return self._key or str(getattr(self._given, "api_key", ""))


def in_stream(name: str, code: str, kind: str, message: str) -> ModelError:
    """The error of an event inside a stream, which has no status of its own."""
    status = STATUS.get(code) or STATUS.get(kind) or (400 if code.startswith(("invalid_", "image_")) else 500)
    return failure(name, KEY, status=status, message=message, code=code or kind)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the certificates takes 40 ms, and every event loop has a client of its own."""
    return cast("ssl.SSLContext", importlib.import_module("httpx2").create_ssl_context())


def _module(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _sdk() -> Any:
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise MissingExtra(
            f"OpenAI models need the package openai ({error}).",
            fix='Install it: pip install "shipworthy[openai]".',
        ) from error


def _key(given: str | None, base_url: str | None) -> str:
    key = (given or os.environ.get(KEY) or "").strip()
    if not key and base_url is None:
        fix = f"Set {KEY}, or pass api_key= (or base_url= for a local server)."
        raise MissingKey("No OpenAI key is set.", fix=fix)
    if not (key.isascii() and key.isprintable()):
        raise MissingKey("The OpenAI key has characters that no header can carry.", fix=f"Set {KEY} again.")
    return key or LOCAL_KEY
