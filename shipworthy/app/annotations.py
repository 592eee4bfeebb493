"""What a type annotation asks for: who can validate it, what describes it, and what nobody here would
honour."""

from __future__ import annotations

import collections.abc
import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import msgspec

from shipworthy.errors import ConfigurationError

_PYDANTIC_MARKS = (
    "__get_pydantic_core_schema__",
    "__pydantic_core_schema__",
    "__pydantic_validator__",
    "__pydantic_config__",
)
_CONSTRAINTS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_LOOKS_LIKE_A_CONSTRAINT = (*_FUNCTIONS, slice, range, re.Pattern)
_LAZY = (
    collections.abc.Iterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
)


class Unsupported(ConfigurationError):
    """A type that cannot be validated as it is written; becomes InvalidTool or InvalidOutputType at the
    surface."""


class Survey:
    """What is found in a type and in everything that it is made of.

    `pydantic`: it needs pydantic. `constrained`: it has msgspec.Meta constraints, which pydantic does not
    know. `descriptions`: those of the fields of each class, by the class's name.
    """

    def __init__(self, annotation: Any) -> None:
        self.pydantic = False
        self.constrained = False
        self.descriptions: dict[str, dict[str, str]] = {}
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # an id is only unique while its object lives
        self._visit(annotation)
        if self.pydantic and self.constrained:
            raise Unsupported(
                f"{spelled(annotation)} mixes msgspec.Meta constraints with types that pydantic validates, "
                "which would ignore them.",
                fix="Write the constraints with pydantic.Field or annotated_types.",
            )

    def _visit(self, annotation: Any) -> None:
        if id(annotation) in self._seen:
            return
        self._seen.add(id(annotation))
        self._kept.append(annotation)
        _refuse_what_is_no_value(annotation)
        if get_origin(annotation) is Literal:
            return
        for mark in getattr(annotation, "__metadata__", ()):
            self._metadata(mark)
        if is_alias(annotation):
            self._visit(annotation.__value__)
        for argument in get_args(annotation):
            for each in argument if isinstance(argument, list) else (argument,):
                self._visit(each)
        cls = get_origin(annotation) or annotation
        if isinstance(cls, type):
            self._class(cls)

    def _metadata(self, mark: Any) -> None:
        if isinstance(mark, msgspec.Meta):
            self.constrained |= any(getattr(mark, c) is not None for c in _CONSTRAINTS)
        elif _of_pydantic(mark):
            self.pydantic = True
        elif isinstance(mark, _LOOKS_LIKE_A_CONSTRAINT):
            raise Unsupported(
                f"Nothing here knows the constraint {mark!r} in an Annotated[...].",
                fix="Use msgspec.Meta, pydantic.Field, or an annotated_types constraint.",
            )

    def _class(self, cls: type) -> None:
        if any(hasattr(cls, mark) for mark in _PYDANTIC_MARKS):
            self.pydantic = True
        fields = getattr(cls, "__pydantic_fields__", None)
        if isinstance(fields, dict):
            for info in fields.values():
                self._visit(info.annotation)
                for mark in info.metadata:
                    self._metadata(mark)
            return
        if not _has_fields(cls):
            return
        self._defaults(cls)
        for name, hint in _hints(cls).items():
            self._visit(hint)
            if text := described(hint):
                self.descriptions.setdefault(cls.__name__, {})[name] = text

    def _defaults(self, cls: type) -> None:
        if dataclasses.is_dataclass(cls):
            self.pydantic |= any(_of_pydantic(f.default) for f in dataclasses.fields(cls))
            return
        given = (*getattr(cls, "__struct_defaults__", ()), *getattr(cls, "_field_defaults", {}).values())
        if any(_of_pydantic(d) for d in given):
            raise Unsupported(
                f"{cls.__name__} has a pydantic Field as a default, which it ignores.",
                fix="Make it a pydantic.BaseModel, or write Annotated[..., msgspec.Meta(...)].",
            )
        if any(a.validator or a.converter for a in getattr(cls, "__attrs_attrs__", ())):
            raise Unsupported(
                f"The validators and converters of the attrs class {cls.__name__} would not run.",
                fix="Make it a dataclass with __post_init__, a msgspec.Struct or a pydantic.BaseModel.",
            )


def described(annotation: Any) -> str:
    """The description that an annotation carries: its first string or `Doc` in `Annotated`; else empty."""
    for mark in getattr(annotation, "__metadata__", ()):
        text = mark if isinstance(mark, str) else getattr(mark, "documentation", None)
        if isinstance(text, str):
            return text
    return ""


def is_alias(annotation: Any) -> bool:
    """Whether it is a `type X = ...` alias (Python 3.12, or typing_extensions)."""
    return type(annotation).__name__ == "TypeAliasType"


def members(annotation: Any) -> Iterator[Any]:
    """The members of a union, flat, aliases resolved; any other type is its own only member."""
    if is_alias(annotation):
        yield from members(annotation.__value__)
    elif get_origin(annotation) in (typing.Union, types.UnionType):
        for each in get_args(annotation):
            yield from members(each)
    else:
        yield annotation


def spelled(annotation: Any) -> str:
    """An annotation as its author would write it."""
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _refuse_what_is_no_value(annotation: Any) -> None:
    if isinstance(annotation, (*_FUNCTIONS, list)):
        raise Unsupported(f"{annotation!r} is not a type.", fix="Pass a type, or a union of types: A | B.")
    origin = get_origin(annotation)
    if type in (origin, annotation):
        raise Unsupported("A class cannot be written as JSON.", fix="Take its name as a Literal or an Enum.")
    if origin in _LAZY or annotation in _LAZY:
        raise Unsupported(
            f"{spelled(annotation)} would be validated lazily or not at all.",
            fix="Use list[...] or tuple[...].",
        )


def _of_pydantic(mark: object) -> bool:
    if isinstance(mark, type):
        return any(hasattr(mark, m) for m in _PYDANTIC_MARKS)
    home = type(mark).__module__.partition(".")[0]
    return home in ("pydantic", "annotated_types") or any(hasattr(mark, m) for m in _PYDANTIC_MARKS)


def _has_fields(cls: type) -> bool:
    return (
        dataclasses.is_dataclass(cls)
        or issubclass(cls, msgspec.Struct)
        or typing.is_typeddict(cls)
        or hasattr(cls, "_field_defaults")
        or hasattr(cls, "__attrs_attrs__")
    )


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise Unsupported(
            f"The annotations of {cls.__name__} cannot be resolved: {error}.",
            fix="Define the types it names at module level, imported outside of `if TYPE_CHECKING:`.",
        ) from None
