"""A function's parameters as a model may fill them; read once, when the tool is made."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, get_origin

import msgspec

from shipworthy.app.annotations import described, members
from shipworthy.app.docstrings import parse_docstring
from shipworthy.app.schemas import REQUIRED, Parameter
from shipworthy.domain.context import RunContext
from shipworthy.errors import InvalidTool

_CONTEXT = re.compile(r"(\w+\.)*RunContext(\[.*\])?", re.DOTALL)


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """`by_keyword`: some parameters can only be passed by keyword."""

    parameters: tuple[Parameter, ...]
    takes_context: bool
    by_keyword: bool
    description: str


def read_signature(fn: Callable[..., Any], tool: str) -> Signature:
    """What *fn* takes. Raises InvalidTool, naming the parameter and the fix."""
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise InvalidTool(
            f"Tool {tool!r} is a generator.", fix="Return the whole result, as a list for example."
        )
    try:
        given = list(inspect.signature(fn).parameters.values())
    except (ValueError, TypeError, NameError) as error:
        raise InvalidTool(
            f"Tool {tool!r} has no readable signature: {error}.",
            fix="Wrap it in a function with annotated parameters.",
        ) from error
    doc = parse_docstring(inspect.getdoc(fn))
    takes_context = bool(given) and _is_context(fn, tool, given[0])
    if takes_context and given[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise _bad(
            tool, given[0], "is the context and can only be passed by keyword", "Put it before the `*`."
        )
    rest = given[1:] if takes_context else given
    return Signature(
        parameters=tuple(_parameter(fn, tool, p, doc.parameters.get(p.name, "")) for p in rest),
        takes_context=takes_context,
        by_keyword=any(p.kind is inspect.Parameter.KEYWORD_ONLY for p in rest),
        description=doc.description,
    )


def _parameter(fn: Callable[..., Any], tool: str, p: inspect.Parameter, text: str) -> Parameter:
    if p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        stars = "*" if p.kind is inspect.Parameter.VAR_POSITIONAL else "**"
        raise _bad(
            tool,
            p,
            f"is {stars}{p.name}, which has no schema",
            "Name the parameters, or take one list or dict.",
        )
    if p.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise _bad(tool, p, "is positional-only", "Remove the `/`: a model passes arguments by name.")
    if p.name.startswith("__"):
        raise _bad(tool, p, "has a name that Python reserves", "Begin it with a letter.")
    if p.annotation is inspect.Parameter.empty:
        raise _bad(tool, p, "has no annotation", _unannotated_fix(p.name))
    annotation = _resolved(fn, tool, p)
    if any(_names_context(m) for m in members(annotation)):
        raise _bad(
            tool,
            p,
            "is a RunContext that is not the first parameter",
            "Put it first: (ctx: RunContext, ...).",
        )
    _refuse_lost_field(tool, p, annotation)
    default = REQUIRED if p.default is inspect.Parameter.empty else p.default
    if default is None and not _takes_none(annotation):
        text = described(annotation) or text
        annotation = annotation | None if isinstance(annotation, type) else typing.Optional[annotation]  # noqa: UP045
    return Parameter(name=p.name, type=annotation, default=default, description=text)


def _takes_none(annotation: Any) -> bool:
    while get_origin(annotation) is Annotated:
        annotation = annotation.__origin__
    return annotation in (Any, object) or type(None) in members(annotation)


def _refuse_lost_field(tool: str, p: inspect.Parameter, annotation: Any) -> None:
    """pydantic's Field says things in a function's signature that nobody would honour there."""
    if type(p.default).__module__.startswith("pydantic."):
        fix = "Write Annotated[<type>, Field(...)] = <default>."
        raise _bad(tool, p, "has a pydantic Field as its default", fix)
    for mark in getattr(annotation, "__metadata__", ()):
        if type(mark).__name__ != "FieldInfo":
            continue
        if not mark.is_required() or mark.alias or mark.validation_alias:
            fix = "Give the default with `=`, and the parameter the name that the model is to use."
            raise _bad(tool, p, "has a Field with a default or an alias", fix)


def _is_context(fn: Callable[..., Any], tool: str, p: inspect.Parameter) -> bool:
    """Whether it is the context; one that is only imported for type checkers is known by its spelling."""
    if p.annotation is inspect.Parameter.empty or p.kind is inspect.Parameter.VAR_POSITIONAL:
        return False
    try:
        return _names_context(_resolved(fn, tool, p))
    except InvalidTool:
        if isinstance(p.annotation, str) and _CONTEXT.fullmatch(p.annotation.strip("\"' ")):
            return True
        raise


def _names_context(annotation: Any) -> bool:
    return annotation is RunContext or get_origin(annotation) is RunContext


def _resolved(fn: Callable[..., Any], tool: str, p: inspect.Parameter) -> Any:
    """The annotation as a type. Names local to the function that defines the tool are found on the stack."""
    carrier = types.SimpleNamespace(__annotations__={p.name: p.annotation})
    names = _globals(fn)
    try:
        try:
            return typing.get_type_hints(carrier, names, include_extras=True)[p.name]
        except NameError:
            return typing.get_type_hints(carrier, names, _locals(names), include_extras=True)[p.name]
    except NameError as error:
        raise _bad(
            tool,
            p,
            f"has an annotation that cannot be resolved: {error}",
            "Import the name outside of `if TYPE_CHECKING:`, or define it before the tool.",
        ) from None
    except Exception as error:
        raise _bad(
            tool, p, f"has an annotation that is not a type: {error}", "Annotate it with a type."
        ) from error


def _globals(fn: Any) -> dict[str, Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    if not hasattr(fn, "__globals__") and not inspect.ismethod(fn):
        fn = type(fn).__call__
    found: dict[str, Any] = getattr(fn, "__globals__", {})
    return found


def _locals(module: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is module:
            found = {**frame.f_locals, **found}
        frame = frame.f_back
    return found


def _unannotated_fix(name: str) -> str:
    if name == "self":
        return "Make the tool from a bound method: tool(instance.method, effect=...)."
    if name in ("ctx", "context"):
        return f"Annotate it: `{name}: RunContext`."
    return f"Annotate it with a type: `{name}: str`, for example."


def _bad(tool: str, p: inspect.Parameter, what: str, fix: str) -> InvalidTool:
    return InvalidTool(f"Parameter `{p.name}` of tool {tool!r} {what}.", fix=fix)
