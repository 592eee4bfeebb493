"""Asking people from inside a tool: `ask_human` and `pause_here`."""

from __future__ import annotations

import datetime
import functools
import math
import operator
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from shipworthy.app.configuration import LONGEST
from shipworthy.app.schemas import Codec, Mismatch, Unsupported, codec_for
from shipworthy.engine.pausing import current
from shipworthy.errors import AnswerUnfit, ConfigurationError
from shipworthy.rules.text import clean

_NOTHING: Any = object()


def ask_human(
    question: str, *, schema: Any = None, timeout: float | None = None, default: Any = _NOTHING
) -> Any:
    """What a person answers. The run pauses until then, and holds nothing meanwhile; it goes on in any process.

    The tool's body runs again from its start when the answer is there, and this gives it at once. So whatever comes
    before it must be safe to repeat: reaching this line says that the call has done nothing yet.

    `schema`: the type of the answer (any JSON value without it); an answer that does not fit is refused. `timeout`:
    seconds after which `default` is the answer; without a default the model is told that nobody answered. Works in
    async and in plain functions alike, and is not awaited. Raises NotInTool outside of a tool that an agent runs.
    """
    if not isinstance(question, str) or not question.strip():
        raise ConfigurationError(f"question={question!r} asks nothing.", fix="Pass a text that is not blank.")
    return pause_here({"question": clean(question)}, schema=schema, timeout=timeout, default=default)


def pause_here(
    data: Any, *, schema: Any = None, timeout: float | None = None, default: Any = _NOTHING
) -> Any:
    """What the run is resumed with: `agent.resume(..., answer=)`. *data* is JSON, shown to whoever answers.

    Like `ask_human`, which asks in words: the body runs again from its start when the answer is there.
    """
    asking = current()
    shape, decode = _shape(schema)
    if timeout is not None and not (_is_number(timeout) and 0 < timeout <= LONGEST):
        raise ConfigurationError(f"timeout={timeout!r} is not a time.", fix="Pass seconds, at most a year.")
    if default is not _NOTHING and timeout is None:
        raise ConfigurationError(
            "default= was given without timeout=, so it would never be the answer.",
            fix="Say timeout= in seconds.",
        )
    said = None if default is _NOTHING else _json("default", default)
    if said is not None:
        try:
            decode(said)
        except AnswerUnfit as problem:
            raise ConfigurationError(
                f"default={default!r} does not fit schema=: {problem.what}",
                fix="Give a default of that type.",
            ) from problem
    return asking.ask(_json("data", data), shape, timeout, said, decode)


def _shape(schema: Any) -> tuple[str | None, Callable[[str], Any]]:
    """The JSON Schema of a type, and the way from JSON to it."""
    if schema is None:
        return None, msgspec.json.decode
    try:
        codec = codec_for(schema)
    except Unsupported as error:
        raise ConfigurationError(f"schema={schema!r}: {error.what}", fix=error.fix) from error

    def decode(text: str) -> Any:
        try:
            return codec.decode(text)
        except Mismatch as mismatch:
            raise AnswerUnfit(str(mismatch)) from mismatch

    return msgspec.json.encode(_told(schema, codec), order="deterministic").decode(), decode


def _told(schema: Any, codec: Codec) -> Mapping[str, Any]:
    """The codec's JSON Schema. msgspec's own calls a moment any text: what is told of it here is its format, wherever
    it is not within a class."""
    try:
        return codec_for(_dated(schema)).schema
    except Unsupported:
        return codec.schema


def _dated(kind: Any) -> Any:
    """The type with its moments marked."""
    if kind is datetime.datetime or kind is datetime.time:
        named = "time" if kind is datetime.time else "date-time"
        return Annotated[kind, msgspec.Meta(extra_json_schema={"format": named})]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal or not args:
        return kind
    if origin is Annotated:
        return Annotated[(_dated(args[0]), *args[1:])]
    marked = tuple([_dated(arg) for arg in args])
    if all(new is old for new, old in zip(marked, args, strict=True)):
        return kind
    return functools.reduce(operator.or_, marked) if origin in (Union, UnionType) else origin[marked]


def _json(name: str, value: Any) -> str:
    try:
        return clean(msgspec.json.encode(value, order="deterministic").decode())
    except (msgspec.EncodeError, TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{name}= cannot be written as JSON: {error}.",
            fix="Pass plain data: texts, numbers, lists, dicts.",
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
