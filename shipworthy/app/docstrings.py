"""What a docstring says of a function and its parameters, in the styles of Google, NumPy and Sphinx.

Formats: google.github.io/styleguide/pyguide.html (3.8.3), numpydoc.readthedocs.io (format), PEP 287 field
lists.
"""

from __future__ import annotations

import inspect
import re

import msgspec

_PARAMETERS = {
    "args",
    "arguments",
    "parameters",
    "params",
    "keyword args",
    "keyword arguments",
    "other parameters",
}
_RETURNS = {"returns", "return"}
_DROPPED = {"raises", "exceptions", "warns", "yields", "yield"}
_TITLES = _PARAMETERS | _RETURNS | _DROPPED
_GOOGLE_ITEM = re.compile(r"^\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:(?:\s+|$)(.*)$")
_NUMPY_ITEM = re.compile(r"^(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
_SPHINX_FIELD = re.compile(r"^:(\w+)(?:\s+([^:]*?))?:(?:\s+|$)(.*)$")


class Docstring(msgspec.Struct, frozen=True):
    """`description` is what comes before the sections, with what is returned; `parameters` is by name."""

    description: str = ""
    parameters: dict[str, str] = {}


def parse_docstring(text: str | None) -> Docstring:
    """The parts of a docstring; what is in none of the three styles stays in the description."""
    if not text:
        return Docstring()
    prose: list[str] = []
    returns: list[str] = []
    parameters: dict[str, str] = {}
    lines = inspect.cleandoc(text).splitlines()
    while lines:
        title, block, lines = _next(lines)
        if title is None:
            prose.extend(block)
        elif title == "sphinx":
            _sphinx(block, parameters, returns)
        elif title in _RETURNS:
            returns.append(_folded(block))
        elif title in _PARAMETERS:
            parameters.update(_items(block))
    description = "\n".join(prose).strip()
    said = " ".join(filter(None, returns))
    return Docstring("\n\n".join(filter(None, (description, said and f"Returns: {said}"))), parameters)


def _next(lines: list[str]) -> tuple[str | None, list[str], list[str]]:
    """The first section of *lines*: its title (None for prose), its lines, and the lines after it."""
    title = lines[0].strip().rstrip(":").lower()
    underlined = len(lines) > 1 and re.fullmatch(r"\s*-{3,}\s*", lines[1]) is not None
    if title in _TITLES and underlined:
        end = (
            next((i for i in range(3, len(lines)) if re.fullmatch(r"\s*-{3,}\s*", lines[i])), len(lines) + 1)
            - 1
        )
        return title, lines[2:end], lines[end:]
    if title in _TITLES and lines[0].endswith(":") and not lines[0].startswith(" "):
        return title, *_indented(lines, 1)
    if _SPHINX_FIELD.match(lines[0]):
        block, rest = _indented(lines, 1)
        return "sphinx", [lines[0], *block], rest
    return None, lines[:1], lines[1:]


def _indented(lines: list[str], start: int) -> tuple[list[str], list[str]]:
    end = start
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith((" ", "\t"))):
        end += 1
    return lines[start:end], lines[end:]


def _items(block: list[str]) -> dict[str, str]:
    """Names and texts of a parameter section: `name (type): text` or `name : type` with the text indented
    below."""
    filled = [line for line in block if line.strip()]
    base = min((len(line) - len(line.lstrip()) for line in filled), default=0)
    numpy = base == 0
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in filled:
        indented = len(line) - len(line.lstrip()) > base
        item = None if indented else (_NUMPY_ITEM if numpy else _GOOGLE_ITEM).match(line.strip())
        if item is None:
            current.append(line)
            continue
        current = [] if numpy else [item[2]]
        for name in item[1].split(","):
            found[name.strip().lstrip("*")] = current
    return {name: _folded(text) for name, text in found.items() if _folded(text)}


def _sphinx(block: list[str], parameters: dict[str, str], returns: list[str]) -> None:
    field = _SPHINX_FIELD.match(block[0])
    if field is None:
        return
    text = _folded([field[3], *block[1:]])
    if field[1] in ("param", "parameter", "arg", "argument", "key", "keyword") and field[2] and text:
        parameters[field[2].split()[-1].lstrip("*\\")] = text
    elif field[1] in ("return", "returns"):
        returns.append(text)


def _folded(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
