"""What every vendor's adapter decides alike: failures by status, schemas, vendor extras. Knows no SDK."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from shipworthy.domain.messages import File, Image, Stored, Text
from shipworthy.domain.model import ModelRequest
from shipworthy.domain.usage import Usage
from shipworthy.errors import ModelError, ModelUnavailable, RateLimited, RequestRejected
from shipworthy.rules.values import misfit

MAX_WAIT = 3600.0
"""Seconds: a provider that asks for more than an hour is taken to ask for an hour."""

MAX_MESSAGE = 600
"""Characters of a provider's message that are passed on; proxies answer with whole web pages."""

_KEY = re.compile(r"\b(sk|pk|rk|sess|key)-[A-Za-z0-9_*.\-]{4,}")

# An error that comes inside a stream has no status of its own; these are the statuses that it would have had.
# https://platform.openai.com/docs/guides/error-codes, https://platform.claude.com/docs/en/api/errors
STATUS = {
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "request_too_large": 413,
    "requests": 429,
    "tokens": 429,
}

NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


NOT_BEGUN = frozenset({501, 503, 521, 522, 523, 529})
"""Statuses from 500 with which a server says that it did not take the request: overloaded, or not reached by its proxy.
Behind every other one (500, 502, 504, ...) an answer may have been made, and billed, that a gateway then lost."""
NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ConnectionRefusedError", "gaierror")
"""Names of the transport's errors before a request was sent."""


def was_sent(error: BaseException | None) -> bool:
    """Whether a request that failed with *error* may have reached the provider."""
    while error is not None:
        if type(error).__name__ in NEVER_SENT:
            return False
        error = error.__cause__ or error.__context__
    return True


def failure(
    name: str,
    key: str,
    *,
    status: int,
    code: str = "",
    message: str,
    headers: Mapping[str, str] | None = None,
) -> ModelError:
    """The error of an answer with an HTTP *status* of 300 or more. *key* names the API key's setting."""
    wait = retry_after(headers or {})
    what = f"{name} answered {status}: {message or 'no message'}"
    what = what if what[-1] in ".!?" else f"{what}."
    if code in NO_CREDIT:
        return RequestRejected(
            what, fix="Add credit with the provider, or raise the account's limit; a retry cannot help."
        )
    if status == 429:
        return RateLimited(what, retry_after=wait)
    if status in (408, 409) or status >= 500:
        return ModelUnavailable(what, retry_after=wait, billable=may_have_begun(status))
    if status in (401, 403):
        return RequestRejected(
            what, fix=f"Check {key}: the key must be valid, and allowed to use this model."
        )
    if status == 404:
        return RequestRejected(what, fix=f"Check the model's name in {name!r}, and base_url.")
    return RequestRejected(what)


def may_have_begun(status: int) -> bool:
    """Whether an answer with this HTTP status of 300 or more may hide one that the provider made, and bills."""
    return status == 408 or (status >= 500 and status not in NOT_BEGUN)


def while_answering(error: ModelError, usage: Usage | None) -> ModelError:
    """The error of an attempt whose answer had begun, whatever it says: it is billed, for *usage* as far as that was
    reported."""
    error.billable = True
    error.usage = usage
    return error


def reported(usage: Callable[[], Usage | None]) -> Usage | None:
    """What a provider reported, if it makes sense: it is asked for beside an error, which it must not replace."""
    try:
        made = usage()
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
    if made is None or made == Usage() or misfit(made, Usage) is not None:
        return None
    return made


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, of `retry-after-ms` or `retry-after` (RFC 9110, 10.2.3); None if neither is usable.

    A date is taken relative to the response's own `date`, so that clocks need not agree.
    """
    wait = _number(headers.get("retry-after-ms"))
    if wait is not None:
        return _bounded(wait / 1000)
    text = headers.get("retry-after")
    wait = _number(text)
    if wait is None and text:
        try:
            wait = (parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"])).total_seconds()
        except (KeyError, TypeError, ValueError):
            return None
    return None if wait is None else _bounded(wait)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if number == number else None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_WAIT)


def cleaned(message: str, key: str | None) -> str:
    """A provider's message without the API key, or what looks like one, and of bounded length."""
    if key:
        message = message.replace(key, "***")
    message = _KEY.sub(r"\1-***", " ".join(message.split()))
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."


# --------------------------------------------------------------------------------------- settings and extras


def tool_choice(request: ModelRequest) -> str | None:
    """The choice to send: None, "auto", "required", "none" or the name of a tool that is offered.

    Without tools there is nothing to choose: "auto" and "none" are left out. Raises RequestRejected.
    """
    choice = request.settings.tool_choice
    if choice is None or choice in ("auto", "required", "none"):
        if choice == "required" and not request.tools:
            raise RequestRejected(
                "tool_choice is 'required', but no tool is offered.", fix="Give the agent a tool."
            )
        return choice if request.tools else None
    if any(tool.name == choice for tool in request.tools):
        return choice
    offered = ", ".join(tool.name for tool in request.tools) or "none"
    raise RequestRejected(
        f"tool_choice names the tool {choice!r}, which is not offered.",
        fix=f"Use 'auto', 'required', 'none' or one of the tools: {offered}.",
    )


def unsupported(name: str, setting: str, instead: str) -> RequestRejected:
    """A setting that a provider does not have; it is refused rather than ignored."""
    return RequestRejected(f"{name} has no setting {setting!r}.", fix=instead)


def with_extra(body: dict[str, Any], extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Lay vendor extras over *body*, objects one level deep; returns what is to go beside the body.

    `extra_headers`, `extra_query` and `extra_body` mean what they mean to the SDKs.
    """
    options: dict[str, Any] = {}
    for field, value in (extra or {}).items():
        if field == "extra_headers":
            options["headers"] = value
        elif field == "extra_query":
            options["params"] = value
        elif field == "extra_body":
            _lay_over(body, value)
        else:
            _lay_over(body, {field: value})
    return options


def _lay_over(body: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for field, value in extra.items():
        ours = body.get(field)
        body[field] = {**ours, **value} if isinstance(ours, dict) and isinstance(value, Mapping) else value


# --------------------------------------------------------------------------------------------------- parts


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def data_url(media_type: str, data: bytes) -> str:
    """RFC 2397."""
    return f"data:{media_type};base64,{base64_text(data)}"


def image_url(image: Image) -> str:
    """The image's own URL, or its bytes as one."""
    return image.url if image.data is None and image.url else data_url(image.media_type, image.data or b"")


def described(part: Text | Image | File | Stored) -> str:
    """A part as text, for a place that takes no other kind."""
    match part:
        case Text():
            return part.text
        case Image():
            return f"[An image ({part.media_type}) that cannot be shown here]"
        case File():
            return f"[The file {part.name!r} ({part.media_type}) that cannot be shown here]"
        case Stored():
            raise unsendable(part)


def unsendable(part: object) -> RequestRejected:
    """A part that has no place where it stands."""
    return RequestRejected(
        f"A part of type {type(part).__name__} cannot be sent to a model here.",
        fix="Users send Text, Image and File; assistants Text, Thinking and ToolCall; tools ToolResult.",
    )


# ------------------------------------------------------------------------------------------------- schemas

_STRICT = {
    *(
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "$ref",
        "$defs",
    ),
    *("title", "description", "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum"),
    *("exclusiveMaximum", "minItems", "maxItems"),
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_SAYS_WHAT = {"type", "enum", "const", "anyOf", "$ref"}


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Does the schema lie in the subset that OpenAI's strict mode takes?

    https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
    """
    return schema.get("type") == "object" and _strict(schema)


def _strict(schema: object) -> bool:
    if not isinstance(schema, Mapping) or not schema.keys() <= _STRICT:
        return False
    if (
        not schema.keys() & {"type", "enum", "const", "anyOf", "$ref"}
        or schema.get("format", "date") not in _FORMATS
    ):
        return False
    properties = schema.get("properties", {})
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required", ())) != set(properties):
            return False
    below = [*properties.values(), *schema.get("anyOf", ()), *schema.get("$defs", {}).values()]
    if "items" in schema:
        below.append(schema["items"])
    return all(_strict(part) for part in below)


def open_maps(schema: object) -> bool:
    """Has the schema objects whose property names are not fixed?"""
    if isinstance(schema, Mapping):
        if schema.get("type") == "object" and schema.get("additionalProperties", False) is not False:
            return True
        return any(open_maps(value) for value in schema.values())
    return isinstance(schema, list) and any(open_maps(value) for value in schema)


def schema_name(name: str) -> str:
    """A name as OpenAI's schemas and Anthropic's tools may have it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "output"
