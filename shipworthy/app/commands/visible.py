"""Text that shows all that is in it: nothing invisible, nothing that moves what stands beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

_WITHOUT_INK = frozenset(
    map(ord, "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
) | {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
"""Characters that count as printable and show nothing: fillers, blanks, variation selectors."""

_PARTING = frozenset(' "')


def visible(text: str) -> str:
    """*text* with every character that is not to be seen, or that turns the direction of others, as its JSON escape.
    Line breaks stay."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join([c if c == "\n" or _is_seen(c) else _escaped(c) for c in text])


def on_one_line(text: str) -> str:
    """As `visible` shows it, line breaks escaped as well."""
    return visible(text).replace("\n", "\\n")


def word(text: str) -> str:
    """*text* so that it is seen where it ends: as it is, or quoted as JSON."""
    plain = text.isprintable() and text and not _PARTING.intersection(text) and visible(text) == text
    return text if plain else on_one_line(msgspec.json.encode(text).decode())


def pretty(arguments: str) -> str:
    """JSON text, indented, and as `visible` shows it: still the same JSON."""
    return visible(msgspec.json.format(arguments.encode(), indent=2).decode())


def foreign(data: Any, path: str = "$") -> Iterator[tuple[str, str]]:
    """Each name and text of *data* that is not ASCII, with its place, in ASCII: letters of one script can look like
    those of another one."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if not key.isascii():
                yield f"{path}, a name", in_ascii(key)
            yield from foreign(value, f"{path}.{in_ascii(key)[1:-1]}")
    elif isinstance(data, str):
        if not data.isascii():
            yield path, in_ascii(data)
    elif isinstance(data, Sequence):
        for number, value in enumerate(data):
            yield from foreign(value, f"{path}[{number}]")


def in_ascii(text: str) -> str:
    """*text* as JSON without a character beyond ASCII."""
    quoted = msgspec.json.encode(text).decode()
    return "".join([c if c.isascii() else _escaped(c) for c in quoted])


def _is_seen(c: str) -> bool:
    return (
        c.isprintable() and ord(c) not in _WITHOUT_INK
    )  # what turns the direction is no printable character


def _escaped(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass").hex()
    return "".join([f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)])
