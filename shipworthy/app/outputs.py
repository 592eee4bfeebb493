"""Outputs from types: how the model is asked for a value of a type, and how its answer becomes one."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union, cast, get_args, get_origin

import msgspec

from shipworthy.app.annotations import members, spelled
from shipworthy.app.results import valid
from shipworthy.app.schemas import Codec, Mismatch, Parameter, Record, Unsupported, codec_for
from shipworthy.domain.context import RunContext
from shipworthy.domain.model import OutputSpec, ToolSpec
from shipworthy.errors import ConfigurationError, InvalidOutput, InvalidOutputType

OutputMode = Literal["auto", "tool", "native", "prompted"]
TOOL = "final_answer"

_FENCED = re.compile(r"\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_ASKED = "Gives the final answer and ends the work."


def output_for(
    annotation: Any = str, *, mode: OutputMode = "auto", validators: Sequence[Callable[..., Any]] = ()
) -> Outputs:
    """The output of a type. Raises InvalidOutputType for what nobody validates, ConfigurationError for a bad
    mode.

    "auto" is plain text for `str` and "tool" for every other type: the model answers by calling
    `final_answer`, or `final_answer_<Type>` for each member of a union; `str` in the union lets it answer in
    text too. "native" has the provider enforce the schema; "prompted" asks for JSON in words.

    A validator is `(value)` or `(ctx, value)`, async or not (one that is not runs on the loop: let it be
    quick). What it returns is the output from there on, so it returns the value; `ValueError` and
    `InvalidOutput` reject it.
    """
    if annotation is str and mode == "auto" and not validators:
        return TEXT
    if mode not in get_args(OutputMode):
        raise ConfigurationError(
            f"output mode {mode!r} is unknown.", fix=f"Use one of {get_args(OutputMode)}."
        )
    checks = tuple(_Check(v) for v in validators)
    by_tool = mode in ("auto", "tool")
    found = list(members(annotation))
    if len(found) == 1:
        found = [annotation]
    text = by_tool and str in found
    shapes = [_Shape(t, _codec(t)) for t in found if not (text and t is str)]
    if by_tool:
        shapes = _merged(shapes)
    return Outputs(annotation, _labelled(shapes), text, "tool" if by_tool else mode, checks)


class Outputs:
    """One output type. Text in, a value out, and the journal's JSON both ways.

    `names` are those of its tools, which no tool of the agent may have. The journal's text is the value's
    JSON; for a union it is an object with one key that names the member.
    """

    def __init__(
        self, annotation: Any, shapes: Sequence[_Shape], text: bool, mode: str, checks: tuple[_Check, ...]
    ) -> None:
        self.type = annotation
        self.text = text
        self.tools: tuple[ToolSpec, ...] = ()
        self.native: OutputSpec | None = None
        self.words = ""
        self._checks = checks
        self._shapes = tuple(shapes)
        self._tagged = len(shapes) + text > 1
        self._by_tool: dict[str, _Shape] = {}
        self._whole: _Shape | None = None
        if mode == "tool":
            self._by_tool = {_tool(s.label): s for s in shapes}
            self.tools = tuple(ToolSpec(name, s.description, s.schema) for name, s in self._by_tool.items())
        else:
            self._whole = shapes[0] if len(shapes) == 1 else _Shape(annotation, _codec(annotation))
            self._ask(self._whole, mode)

    def _ask(self, whole: _Shape, mode: str) -> None:
        if mode == "native":
            self.native = OutputSpec(whole.label or TOOL, whole.schema)
            return
        schema = msgspec.json.encode(whole.schema).decode()
        self.words = (
            "Give your final answer as one JSON value that fits this JSON Schema, and nothing else: "
            f"no explanation, no code fence.\n{schema}"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the output tools."""
        return tuple(self._by_tool)

    def parse(self, text: str, tool: str | None) -> Any:
        """A value from an answer's text (*tool* is None) or from the arguments of an output tool's call.
        Raises InvalidOutput, in words that the model can use."""
        shape = self._whole if tool is None else self._by_tool.get(tool)
        if shape is None:
            if self.text and tool is None:
                return text
            names = " or ".join(f"`{n}`" for n in self._by_tool)
            raise InvalidOutput(
                f"Give the final answer by calling {names}." if names else "Answer in plain text."
            )
        if tool is None and (fenced := _FENCED.fullmatch(text)):
            text = fenced[1]
        try:
            return shape.read(text)
        except Mismatch as mismatch:
            raise InvalidOutput(f"The answer is not valid. {mismatch}") from mismatch

    async def check(self, ctx: RunContext[Any], value: Any) -> Any:
        """The value after every validator, in order. Raises InvalidOutput or ModelRetry for a rejected value,
        and InvalidOutputType for a validator that returns what the output's type does not take."""
        for check in self._checks:
            checked = await check.run(ctx, value)
            if checked is not value:
                self._refuse_foreign(check, checked)
            value = checked
        return value

    def encode(self, value: Any) -> str:
        """The value as JSON text, for the journal. Raises InvalidOutputType for a value of another type."""
        if type(value) is str and self.text:
            text = msgspec.json.encode(valid(value)).decode()
            return f'{{"text":{text}}}' if self._tagged else text
        errors = []
        for shape in sorted(self._shapes, key=lambda s: not s.made(value)):
            try:
                text = shape.codec.encode(value)
                shape.codec.restore(text)
            except Exception as error:
                errors.append(str(error))
            else:
                return f"{{{json.dumps(shape.label)}:{text}}}" if self._tagged else text
        raise InvalidOutputType(
            f"A value of type {type(value).__name__} is not an output of type {spelled(self.type)}: "
            f"{' '.join(errors) or 'it is no str'}.",
            fix="Return what output= says from every output validator.",
        )

    def decode(self, text: str) -> Any:
        """The value back from the journal's JSON text. Raises InvalidOutput where the type has changed
        since."""
        try:
            if not self._tagged:
                return (
                    self._shapes[0].codec.restore(text)
                    if self._shapes
                    else msgspec.json.decode(text, type=str)
                )
            ((label, raw),) = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()
            if label == "text" and self.text:
                return msgspec.json.decode(raw, type=str)
            return next(s for s in self._shapes if s.label == label).codec.restore(bytes(raw).decode())
        except (ValueError, StopIteration) as error:
            raise InvalidOutput(
                f"The recorded output is not of type {spelled(self.type)}: {error}"
            ) from error

    def _refuse_foreign(self, check: _Check, value: Any) -> None:
        try:
            self.encode(value)
        except InvalidOutputType as error:
            raise InvalidOutputType(
                f"Output validator {check.name} returned {type(value).__name__}. {error.what}",
                fix="Return the value, changed or as it came; raise ValueError to reject it.",
            ) from error


class _Shape:
    """One type that an answer can have. What is no object is asked for in a field `response`."""

    def __init__(self, annotation: Any, codec: Codec, label: str = "") -> None:
        self.annotation = annotation
        self.codec = codec
        self.label = label
        self.bare = codec.schema.get("type") == "object"
        self._record = None if self.bare else Record((Parameter(name="response", type=annotation),))
        self.schema = codec.schema if self._record is None else self._record.schema
        self.description = _description(annotation)
        origin = get_origin(annotation) or annotation
        self._class = origin if isinstance(origin, type) else None

    def read(self, text: str) -> Any:
        """The value from what the model wrote. Raises Mismatch."""
        return self.codec.decode(text) if self._record is None else self._record.decode(text).response

    def made(self, value: Any) -> bool:
        """Whether *value* is an instance, as far as Python can tell."""
        return type(value) is self._class


class _Check:
    """One validator, its signature read once."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        if not callable(fn):
            raise InvalidOutputType(
                f"Output validator {fn!r} is not callable.", fix="Pass a function of the value."
            )
        self.name = getattr(fn, "__name__", repr(fn))
        self._fn = fn
        self._with_context = self._takes(2)
        if not self._with_context and not self._takes(1):
            raise InvalidOutputType(
                f"Output validator {self.name} takes neither (value) nor (ctx, value).",
                fix="Write `def check(value)` or `def check(ctx, value)`, and return the value.",
            )

    def _takes(self, count: int) -> bool:
        """Whether it is called with *count* arguments; parameters with defaults are its own affair."""
        try:
            parameters = inspect.signature(self._fn).parameters.values()
        except ValueError:  # some builtins have no signature
            return count == 1
        required = [
            p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        if any(p.kind is p.KEYWORD_ONLY for p in required):
            return False
        if count == 1:
            return len(required) <= 1 and any(p.kind is not p.KEYWORD_ONLY for p in parameters)
        return len(required) == count

    async def run(self, ctx: RunContext[Any], value: Any) -> Any:
        try:
            result = self._fn(ctx, value) if self._with_context else self._fn(value)
            return await result if hasattr(result, "__await__") else result
        except ValueError as error:
            raise InvalidOutput(str(error) or "The value was rejected.") from error


def _codec(annotation: Any) -> Codec:
    try:
        return codec_for(annotation)
    except Unsupported as error:
        raise InvalidOutputType(f"output= cannot be validated: {error.what}", fix=error.fix) from error


def _merged(shapes: list[_Shape]) -> list[_Shape]:
    """Objects stay apart, one tool each; the others share one tool where one codec takes them all."""
    others = [s for s in shapes if not s.bare]
    if len(others) < 2:
        return shapes
    union = cast(Any, Union)[tuple(s.annotation for s in others)]
    try:
        shared = _Shape(union, _codec(union))
    except InvalidOutputType:
        return shapes
    return [*(s for s in shapes if s.bare), shared]


def _labelled(shapes: list[_Shape]) -> list[_Shape]:
    """Each with a name that is free: none for an only one, else that of its type."""
    if len(shapes) == 1:
        return shapes
    taken: set[str] = {"text"}
    for shape in shapes:
        name = getattr(shape.annotation, "__name__", "value") if shape.bare else "value"
        name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:40]
        label, count = name, 2
        while label in taken:
            label, count = f"{name}_{count}", count + 1
        taken.add(label)
        shape.label = label
    return shapes


def _tool(label: str) -> str:
    return f"{TOOL}_{label}" if label else TOOL


def _description(annotation: Any) -> str:
    """What the tool is for, with the type's own docstring where somebody wrote one."""
    doc = getattr(annotation, "__doc__", None) if isinstance(annotation, type) else None
    generated = (
        doc is None or annotation.__module__ == "builtins" or doc.startswith(f"{annotation.__name__}(")
    )
    return _ASKED if generated else f"{_ASKED} {inspect.cleandoc(str(doc))}"


TEXT = Outputs(str, (), True, "tool", ())
