"""What a tool returned, as the parts that the model is shown. Valid Unicode, always: the journal keeps
them."""

from __future__ import annotations

import collections.abc
import math
import os
from typing import Any

import msgspec

from shipworthy.domain.messages import File, Image, Text
from shipworthy.errors import UnserialisableResult
from shipworthy.rules.values import misfit_part

Parts = tuple[Text | Image | File, ...]
_FIX = "Return a str, Text, Image, File, or data made of builtins, dataclasses, msgspec or pydantic models."


def to_parts(value: Any, origin: str) -> Parts:
    """The parts that stand for *value*: untrusted, and of *origin*. Raises UnserialisableResult.

    Texts and parts are taken as they are (a list with parts in it as a list of parts); None is "(no result)";
    everything else is JSON, where NaN and the infinities are null. What is no valid Unicode becomes U+FFFD.
    """
    if type(value) is str:
        return (Text(value if value.isascii() else valid(value), origin, "untrusted"),)
    if value is None:
        return (Text("(no result)", origin, "untrusted"),)
    if isinstance(value, (Text, Image, File)):
        return (_labelled(value, origin),)
    if isinstance(value, (list, tuple)) and any(isinstance(v, (Text, Image, File)) for v in value):
        return tuple(part for v in value for part in to_parts(v, origin))
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise UnserialisableResult(
            "The tool returned bytes. Return File(data=..., name=...), Image(data=...) or a str."
        )
    if isinstance(value, float) and not math.isfinite(value):
        return (Text(str(value), origin, "untrusted"),)
    text = valid(str.__str__(value)) if isinstance(value, str) else _json(value)
    return (Text(text, origin, "untrusted"),)


def valid(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _labelled(part: Text | Image | File, origin: str) -> Text | Image | File:
    try:
        made = _relabelled(part, origin)
    except (TypeError, AttributeError) as error:
        raise UnserialisableResult(
            f"The tool returned {type(part).__name__} that is not one: {error}."
        ) from error
    if (wrong := misfit_part(made)) is not None:
        raise UnserialisableResult(f"The tool returned {type(part).__name__} that cannot be kept: {wrong}.")
    return made


def _relabelled(part: Text | Image | File, origin: str) -> Text | Image | File:
    if isinstance(part, Text):
        return Text(valid(part.text), origin, "untrusted")
    changes: dict[str, Any] = {"origin": origin, "trust": "untrusted", "media_type": valid(part.media_type)}
    if isinstance(part, File):
        changes["name"] = valid(part.name)
    elif part.url is not None:
        changes["url"] = valid(part.url)
    return msgspec.structs.replace(part, **changes)


def _json(value: Any) -> str:
    try:
        try:
            return _encoder.encode(value).decode()
        except UnicodeEncodeError:
            return _encoder.encode(_valid_throughout(msgspec.to_builtins(value, enc_hook=_plain))).decode()
    except RecursionError:
        raise UnserialisableResult(
            f"The tool's result ({type(value).__name__}) contains itself, or is nested too deeply. {_FIX}"
        ) from None
    except Exception as error:
        raise UnserialisableResult(
            f"The tool's result ({type(value).__name__}) cannot be written as JSON: {error}. {_FIX}"
        ) from error


def _valid_throughout(value: Any) -> Any:
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, dict):
        return {_valid_throughout(k): _valid_throughout(v) for k, v in value.items()}
    return [_valid_throughout(v) for v in value] if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    """What msgspec does not know, in terms of what it knows."""
    if hasattr(value, "__pydantic_serializer__") and hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, collections.abc.Mapping):
        return dict(value)
    if isinstance(value, (collections.abc.Set, collections.abc.Sequence, collections.abc.ValuesView)):
        return list(value)
    if callable(tolist := getattr(value, "tolist", None)):  # NumPy's scalars and arrays
        return tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
