"""What callers hand in, checked against its types: structs do not look at their fields when they are made."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from shipworthy.domain.messages import File, Image, Text
from shipworthy.domain.usage import Usage


def misfit(value: Any, kind: Any) -> str | None:
    """What is wrong with *value* as a *kind*, in words; None if it can be written to a journal and read back."""
    try:
        msgspec.json.decode(msgspec.json.encode(value), type=kind)
    except msgspec.ValidationError as error:
        return str(error)
    except (msgspec.EncodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def misfit_part(part: Text | Image | File) -> str | None:
    """`misfit` for a part, without encoding its data."""
    if isinstance(part, Text):
        return misfit(part, Text)
    if isinstance(part, Image):
        if (part.data is None) == (part.url is None):
            return "an Image has exactly one of data and url"
        if part.data is not None and not isinstance(part.data, bytes):
            return f"data is a {type(part.data).__name__}, not bytes"
        return misfit(msgspec.structs.replace(part, data=None), Image)
    if not isinstance(part.data, bytes):
        return f"data is a {type(part.data).__name__}, not bytes"
    return misfit(msgspec.structs.replace(part, data=b""), File)


MOST_TOKENS = 1 << 32
"""Tokens that no request and no answer has: a report of more is taken for none."""


def sound(usage: Usage) -> Usage:
    """A report that can be counted: what is not a whole number of tokens was not reported, nor was an input of which a
    part is none; and what is said to have come from a cache or gone into it is input, also where a provider counts it
    apart."""
    cached = 0
    for field in _FIELDS:
        value = getattr(usage, field)
        if value is not None and (type(value) is not int or not 0 <= value < MOST_TOKENS):
            usage = replace(usage, **{field: None})
            if field in _CACHED:
                usage = replace(usage, input_tokens=None)
        elif value and field in _CACHED:
            cached += value
    if cached and usage.input_tokens is not None and cached > usage.input_tokens:
        usage = replace(usage, input_tokens=usage.input_tokens + cached)
    return usage


_FIELDS = Usage.__struct_fields__
_CACHED = ("cache_read_tokens", "cache_write_tokens")
