"""Why a value did not fit, in words that a model can act on: the field, what was expected, what came."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

MOST = 5
"""Problems told at once; a model corrects a few at a time."""
LONGEST = 400
"""Characters of one problem: a model's own nonsense is not given back to it whole."""

_PLACE = re.compile(r"^(.*?)(?: - at (`key` in )?`\$(.*)`)?$", re.DOTALL)
_QUOTED = re.compile(r"`([^`]+)`")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "array": "a list",
    "object": "an object",
    "null": "null",
    "bytes": "a base64 string",
    "datetime": "an ISO 8601 date and time",
    "date": "an ISO 8601 date",
    "time": "an ISO 8601 time",
    "uuid": "a UUID",
    "decimal": "a decimal number",
}
_CAME = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class Mismatch(ValueError):
    """A value does not fit its type. `problems` are sentences; the message is all of them."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(p if len(p) <= LONGEST else f"{p[:LONGEST]}..." for p in problems[:MOST])
        more = len(problems) - MOST
        super().__init__(" ".join(self.problems) + (f" And {more} more." if more > 0 else ""))


def explain(error: Exception, schema: Mapping[str, Any], text: str | bytes, at: str = "") -> Mismatch:
    """The mismatch behind whatever a decoder raised for *text*; *at* names the place of the whole value."""
    if isinstance(error, msgspec.ValidationError):
        return Mismatch(_of_msgspec(str(error), schema, at))
    if isinstance(error, msgspec.DecodeError):
        return Mismatch(_malformed(str(error), text))
    if isinstance(error, RecursionError):
        return Mismatch("The JSON is nested too deeply.")
    if isinstance(error, UnicodeError):
        return Mismatch("The JSON is not valid Unicode.")
    if callable(getattr(error, "errors", None)):  # pydantic.ValidationError, without importing pydantic
        return Mismatch(*_of_pydantic(error, at))
    return Mismatch(f"{_named(at)}{type(error).__name__}: {error}.")


def known(names: Any) -> str:
    """Names as the end of a sentence."""
    return f"; there is {', '.join(f'`{n}`' for n in names)}." if names else "; it takes none."


def _named(place: str) -> str:
    return f"`{place}`: " if place else ""


def _joined(at: str, path: str) -> str:
    return at + path if at else path.removeprefix(".")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _malformed(message: str, text: str | bytes) -> str:
    shown = text if isinstance(text, str) else text.decode("utf-8", "replace")
    if _LONE_SURROGATE.search(shown):
        return "The JSON is malformed: it has a \\u escape that is half of a surrogate pair."
    return f"The JSON is malformed: {_lower(message.removeprefix('JSON is malformed: '))}."


def _of_msgspec(message: str, schema: Mapping[str, Any], at: str) -> str:
    match = _PLACE.match(message)
    what, path = (match[1], match[3] or "") if match else (message, "")
    place = _joined(at, path)
    if match and match[2]:
        place = f"{place} (key)"
    if found := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"`{_joined(at, f'{path}.{found[1]}')}` is missing."
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        names = _at(schema, path).get("properties", {})
        return f"There is no field `{_joined(at, f'{path}.{found[1]}')}`{known(names)}"
    if (found := re.fullmatch(r"Invalid enum value (.*)", what)) and (
        allowed := _at(schema, path).get("enum")
    ):
        choices = ", ".join(json.dumps(a, ensure_ascii=False) for a in allowed)
        return f"{_named(place)}{found[1]} is not one of {choices}."
    if what.startswith("Expected"):
        what = _QUOTED.sub(lambda m: " or ".join(_WORDS.get(w, w) for w in m[1].split(" | ")), what)
    return f"{_named(place)}{_lower(what) if place else what}."


def _of_pydantic(error: Any, at: str) -> list[str]:
    problems = []
    for found in error.errors(include_url=False, include_context=False):
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in found["loc"])
        place = _joined(at, path)
        if found["type"] == "missing":
            problems.append(f"`{place}` is missing.")
        elif found["type"] == "extra_forbidden":
            problems.append(f"There is no field `{place}`.")
        else:
            message = found["msg"].removeprefix("Value error, ").removesuffix(".")
            problems.append(f"{_named(place)}{_lower(message) if place else message}{_came(found)}.")
    return problems


def _came(found: Mapping[str, Any]) -> str:
    value = found["input"]
    if found["type"] in ("value_error", "assertion_error", "json_invalid"):
        return ""
    if found["type"].endswith(("_type", "_parsing")) and type(value) in _CAME:
        return f", got {_CAME[type(value)]}"
    return f", got {value}" if isinstance(value, (int, float)) else ""


def _at(schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The schema of the place *path* in *schema*; empty where it cannot be told."""
    defs = schema.get("$defs", {})
    places = [schema]
    for name, index in _STEP.findall(path):
        places = [below for place in places for below in _below(place, name, index, defs)]
    for place in (option for p in places for option in _options(p, defs)):
        if "enum" in place or "properties" in place:
            return place
    return {}


def _options(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "$ref" in schema:
        return _options(defs.get(schema["$ref"].rpartition("/")[2], {}), defs)
    if "anyOf" in schema:
        return [option for each in schema["anyOf"] for option in _options(each, defs)]
    return [schema]


def _below(
    schema: Mapping[str, Any], name: str, index: str, defs: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    found = []
    for option in _options(schema, defs):
        prefix = option.get("prefixItems", ())
        if name in option.get("properties", {}):
            found.append(option["properties"][name])
        elif index.isdigit() and int(index) < len(prefix):
            found.append(prefix[int(index)])
        else:
            found.append(option.get("items") if index else option.get("additionalProperties"))
    return [f for f in found if isinstance(f, dict)]
