"""Whether an answer fits the JSON Schema that was recorded with its question. The type that it was made of may be in
another process."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import functools
import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from jsonschema import FormatChecker
    from jsonschema.exceptions import ValidationError

SECONDS = 3.0
"""How long a check may take."""
_FORMATS: dict[str, Any] = {
    "date": datetime.date,
    "date-time": datetime.datetime,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "uuid": uuid.UUID,
    "decimal": decimal.Decimal,
}
"""Formats of texts, by what the text is to be read as."""


async def misfit(data: Any, schema: Mapping[str, Any]) -> str | None:
    """`misfit_data`, off this event loop. What takes longer than SECONDS does not fit; its thread ends by itself."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[str | None] = loop.create_future()

    def tell(found: str | None, error: BaseException | None) -> None:
        if told.done():
            return
        if error is not None:
            told.set_exception(error)
        else:
            told.set_result(found)

    def check() -> None:
        found, failed = None, None
        try:
            found = misfit_data(data, schema)
        except Exception as error:
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, found, failed)

    threading.Thread(target=check, name="shipworthy-fitting", daemon=True).start()
    try:
        return await asyncio.wait_for(told, SECONDS)
    except TimeoutError:
        return f"checking it took more than {SECONDS:g} seconds; give a smaller one"


def misfit_data(data: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong first with plain JSON data, in words; None if it fits. A schema that is none fits nothing, and none
    is ever fetched."""
    from jsonschema.exceptions import SchemaError, best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    validator = _validator()
    try:
        validator.check_schema(schema)
        checking = validator(schema, registry=Registry(), format_checker=validator.FORMAT_CHECKER)
        first = next(checking.iter_errors(data), None)
        problem = None if first is None else best_match([first])
    except (SchemaError, Unresolvable, RecursionError) as error:
        return f"its schema cannot be used ({type(error).__name__})"
    except ArithmeticError:
        return "it has numbers that are too large"
    if problem is None:
        return None
    return f"{problem.json_path}: {problem.message}"[:500]


@functools.cache
def _validator() -> Any:
    """Draft 2020-12, as types are read here: 3.0 is no integer, and a date is one. Linear in the answer."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    keywords = {"uniqueItems": _unique, "contentEncoding": _encoded}
    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, keywords, type_checker=types, format_checker=_formats()
    )


def _formats() -> FormatChecker:
    from jsonschema import FormatChecker

    checker = FormatChecker(("email", "ipv4", "ipv6"))
    for name, kind in _FORMATS.items():
        reads = functools.partial(_reads, kind)
        checker.checkers[name] = (reads, ())  # of this one; its method `checks` would be for all
    return checker


def _reads(kind: Any, value: object) -> bool:
    """Whether a text is one of these; what is no text is of no format."""
    try:
        return not isinstance(value, str) or msgspec.convert(value, kind) is not None
    except msgspec.ValidationError:
        return False


def _unique(_: Any, unique: Any, items: Any, _schema: Any) -> Iterator[ValidationError]:
    """`uniqueItems`, by the text of each: 1 and 1.0 are the same, and 1 and true are not."""
    from jsonschema.exceptions import ValidationError

    if unique and isinstance(items, list):
        seen = {json.dumps(_plain(item), sort_keys=True) for item in items}
        if len(seen) < len(items):
            yield ValidationError("it has the same item twice")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _encoded(_: Any, encoding: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError

    if encoding == "base64" and not _reads(bytes, value):
        yield ValidationError(f"{value!r} is not base64")
