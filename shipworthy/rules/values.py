"""What callers hand in, checked against its types: structs do not look at their fields when they are made."""

from __future__ import annotations

from typing import Any

import msgspec

from shipworthy.domain.messages import File, Image, Text


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
