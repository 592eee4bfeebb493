"""A type's JSON Schema and codec, made once. msgspec serves most types; pydantic is imported where one needs
it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from shipworthy.app.annotations import Survey, Unsupported, described, spelled
from shipworthy.app.problems import Mismatch, explain, known

__all__ = ["REQUIRED", "Codec", "Mismatch", "Parameter", "Record", "Unsupported", "codec_for"]

Schema = dict[str, Any]
_REFS = "#/$defs/{name}"
REQUIRED = msgspec.UNSET
_encoder = msgspec.json.Encoder()


class Codec(Protocol):
    """One type's JSON: its schema, and the way in and out."""

    @property
    def schema(self) -> Schema:
        """A JSON Schema whose top is the type itself; what it refers to is under `$defs`."""
        ...

    def decode(self, data: bytes | str, at: str = "") -> Any:
        """A valid value from JSON. Raises Mismatch and nothing else; *at* is where the value stands."""
        ...

    def encode(self, value: Any) -> str:
        """JSON text that `restore` reads back. Raises what its encoder raises for a value of another type."""
        ...

    def restore(self, data: str) -> Any:
        """The value back from the text of `encode`. Raises Mismatch."""
        ...

    def from_python(self, value: Any) -> Any:
        """A valid value from plain Python data. Raises Mismatch."""
        ...


class _Json:
    """The codec of a type that msgspec knows."""

    def __init__(self, annotation: Any, survey: Survey) -> None:
        self._decode = msgspec.json.Decoder(annotation).decode
        (top,), defs = msgspec.json.schema_components([annotation], ref_template=_REFS)
        self.schema = _closed({**top, "$defs": defs}, annotation, survey)

    def decode(self, data: bytes | str, at: str = "") -> Any:
        try:
            return self._decode(data)
        except Exception as error:
            raise explain(error, self.schema, data, at) from error

    def encode(self, value: Any) -> str:
        return _encoder.encode(value).decode()

    def restore(self, data: str) -> Any:
        return self.decode(data)

    def from_python(self, value: Any) -> Any:
        return self.decode(_plain(value))


class _Pydantic:
    """The codec of a type that only pydantic knows. Journal texts use field names, whatever the aliases."""

    def __init__(self, annotation: Any, survey: Survey) -> None:
        from pydantic import TypeAdapter

        self._adapter = TypeAdapter(annotation)
        self.schema = _closed(self._adapter.json_schema(ref_template="#/$defs/{model}"), annotation, survey)

    def decode(self, data: bytes | str, at: str = "") -> Any:
        try:
            return self._adapter.validate_json(data)
        except Exception as error:
            raise explain(error, self.schema, data, at) from error

    def encode(self, value: Any) -> str:
        text: str = self._adapter.dump_json(value, round_trip=True, by_alias=False, warnings="error").decode()
        if self.restore(text) != value:
            raise ValueError(
                "written down and read back it is another value; see its validators and hidden fields"
            )
        return text

    def restore(self, data: str) -> Any:
        try:
            return self._adapter.validate_json(data, by_alias=False, by_name=True)
        except Exception as error:
            raise explain(error, self.schema, data) from error

    def from_python(self, value: Any) -> Any:
        return self.decode(_plain(value))


def codec_for(annotation: Any) -> Codec:
    """The codec of a type; one per type where types can be compared. Raises Unsupported, naming the fix.

    msgspec's type unions are strict (two classes only if tagged structs); pydantic tries the rest in their order.
    """
    try:
        hash(annotation)
    except TypeError:
        return _build(annotation)
    return _cached(annotation, spelled(annotation))


def _build(annotation: Any) -> Codec:
    survey = Survey(annotation)
    reason: Exception | None = None
    if not survey.pydantic:
        try:
            return _Json(annotation, survey)
        except TypeError as error:
            reason = error
    if survey.constrained:
        raise Unsupported(
            f"{spelled(annotation)} cannot be validated by msgspec, and pydantic does not know msgspec.Meta: "
            f"{_first_line(reason)}",
            fix="Write the constraints with pydantic.Field or annotated_types.",
        )
    try:
        return _Pydantic(annotation, survey)
    except Exception as error:
        raise Unsupported(
            f"{spelled(annotation)} cannot be validated from JSON: {_first_line(reason or error)}",
            fix="Use builtins, dataclasses, TypedDict, enums, msgspec.Struct or pydantic models.",
        ) from error


@functools.lru_cache(maxsize=1024)
def _cached(annotation: Any, _spelled: str) -> Codec:
    """The spelling is in the key because `A | B` equals `B | A`, which pydantic tries in another order."""
    return _build(annotation)


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a record. `default` is REQUIRED where there is none."""

    name: str
    type: Any
    default: Any = REQUIRED
    description: str = ""


class Record:
    """An object with named fields, such as the arguments of a tool: closed, and each key given once.

    Decoded values are msgspec structs with the fields in the order of the parameters. Fields that need
    pydantic are left raw by msgspec and decoded after it.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        codecs = {p.name: codec_for(p.type) for p in parameters}
        self._codecs = codecs
        self._late = tuple((n, c) for n, c in codecs.items() if isinstance(c, _Pydantic))
        self._required = tuple(p.name for p in parameters if p.default is REQUIRED)
        late = {name for name, _ in self._late}
        struct = msgspec.defstruct(
            "Arguments",
            [(p.name, msgspec.Raw if p.name in late else p.type, _default(p.default)) for p in parameters],
            kw_only=True,
            forbid_unknown_fields=True,
        )
        self._decode = msgspec.json.Decoder(struct).decode
        self.schema = _object(parameters, codecs)
        names, self._open = _keys(self.schema)
        self._quoted = tuple(f'"{n}"' for n in names)

    def decode(self, text: str) -> Any:
        """The fields from JSON text. An empty text or `null` stands for no fields. Raises Mismatch."""
        try:
            value = self._decode(text)
        except Exception as error:
            if text.strip() in ("", "null"):
                return self.decode("{}")
            raise self._explain(error, text) from error
        for name, codec in self._late:
            raw = getattr(value, name)
            if type(raw) is msgspec.Raw:
                setattr(value, name, codec.decode(bytes(raw), name))
        for quoted in self._quoted:
            if text.count(quoted) > 1:
                _refuse_repeated_keys(text)
                return value
        if "\\u" in text or (self._open and text.count(":") > 1):
            _refuse_repeated_keys(text)
        return value

    def _explain(self, error: Exception, text: str) -> Mismatch:
        """Every problem at once, so that a model need not find them one by one."""
        if type(error) is msgspec.DecodeError or isinstance(error, (RecursionError, UnicodeError)):
            return explain(error, self.schema, text)
        try:
            given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        except Exception:
            return explain(error, self.schema, text)
        problems = [f"`{name}` is missing." for name in self._required if name not in given]
        for name, raw in given.items():
            if name not in self._codecs:
                problems.append(f"There is no parameter `{name}`{known(self._codecs)}")
                continue
            try:
                self._codecs[name].decode(bytes(raw), name)
            except Mismatch as mismatch:
                problems.extend(mismatch.problems)
        return Mismatch(*problems) if problems else explain(error, self.schema, text)


def _plain(value: Any) -> bytes:
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise Mismatch(f"The value is not plain data: {error}.") from error


def _first_line(error: Exception | None) -> str:
    text = str(error).strip().splitlines()
    return f"{text[0].rstrip('.:')}." if text else type(error).__name__


def _default(default: Any) -> Any:
    """A default as msgspec takes it: what can be changed is made anew for each call."""
    if default is REQUIRED:
        return msgspec.NODEFAULT
    if default is None or isinstance(default, (str, int, float, bytes)):
        return default
    return msgspec.field(default_factory=lambda: copy.deepcopy(default))


def _object(parameters: Sequence[Parameter], codecs: dict[str, Codec]) -> Schema:
    properties: Schema = {}
    defs: Schema = {}
    for p in parameters:
        properties[p.name] = field = _adopt(codecs[p.name].schema, defs)
        if p.description:
            field.setdefault("description", p.description)
        if p.default is not REQUIRED:
            try:
                field["default"] = msgspec.to_builtins(p.default, enc_hook=_dumped)
            except (TypeError, ValueError):
                continue
    schema = {
        "type": "object",
        "properties": properties,
        "required": [p.name for p in parameters if p.default is REQUIRED],
        "additionalProperties": False,
    }
    return {**schema, "$defs": defs} if defs else schema


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "__pydantic_serializer__") else str(value)


def _adopt(schema: Schema, defs: Schema) -> Schema:
    """*schema* without its own `$defs`, which move to *defs* under names that are free there."""
    mine = schema.get("$defs", {})
    names: dict[str, str] = {}
    for name, body in mine.items():
        free, count = name, 2
        while free in defs and defs[free] != body:
            free, count = f"{name}_{count}", count + 1
        names[name] = free
    moved = {f"#/$defs/{old}": f"#/$defs/{new}" for old, new in names.items() if old != new}
    for name, body in mine.items():
        defs[names[name]] = _renamed(body, moved)
    top: Schema = _renamed({k: v for k, v in schema.items() if k != "$defs"}, moved)
    return top


def _renamed(node: Any, moved: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {
            k: moved.get(v, v) if k == "$ref" and isinstance(v, str) else _renamed(v, moved)
            for k, v in node.items()
        }
    return [_renamed(each, moved) for each in node] if isinstance(node, list) else node


def _closed(schema: Schema, annotation: Any, survey: Survey) -> Schema:
    """The schema with the type itself on top, its fields described, and only the `$defs` that it uses."""
    defs = schema.pop("$defs", {})
    while (ref := schema.pop("$ref", None)) is not None:
        schema = {**defs[ref.rpartition("/")[2]], **schema}
    if text := described(annotation):
        schema.setdefault("description", text)
    used: Schema = {}
    _collect(schema, defs, used)
    if used:
        schema["$defs"] = used
    for node in (schema, *used.values()):
        for name, text in survey.descriptions.get(node.get("title", ""), {}).items():
            if name in node.get("properties", {}):
                node["properties"][name].setdefault("description", text)
    return schema


def _collect(node: Any, defs: Schema, used: Schema) -> None:
    if isinstance(node, dict):
        name = str(node.get("$ref", "")).rpartition("/")[2]
        if name in defs and name not in used:
            used[name] = defs[name]
            _collect(defs[name], defs, used)
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _collect(each, defs, used)


def _keys(schema: Schema) -> tuple[frozenset[str], bool]:
    """The keys that valid JSON can have, and whether others than these are possible."""
    names, opened = frozenset(schema.get("properties", ())), _accepts_any_key(schema)
    for below in _parts(schema):
        more, open_below = _keys(below)
        names, opened = names | more, opened or open_below
    return names, opened


def _parts(schema: Schema) -> list[Schema]:
    found: list[Any] = []
    for key in ("properties", "patternProperties", "$defs"):
        found.extend(schema.get(key, {}).values())
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        found.extend(schema.get(key, ()))
    found.extend(schema.get(key) for key in ("items", "additionalProperties"))
    return [each for each in found if isinstance(each, dict)]


def _accepts_any_key(schema: Schema) -> bool:
    kind = schema.get("type")
    if kind == "object":
        return bool(schema.get("additionalProperties", "properties" not in schema))
    if kind == "array":
        return not schema.keys() & {"items", "prefixItems"}
    return not schema.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}


def _refuse_repeated_keys(text: str) -> None:
    """Exact, and slow: only asked where a repetition is possible. JSON leaves open which of two values
    counts."""
    import json

    def once(pairs: list[tuple[str, Any]]) -> None:
        keys = set()
        for key, _ in pairs:
            if key in keys:
                raise Mismatch(f"`{key}` is given twice: give each key once.")
            keys.add(key)

    try:
        json.loads(text, object_pairs_hook=once, parse_int=len, parse_float=len, strict=False)
    except RecursionError:
        raise Mismatch("The JSON is nested too deeply.") from None
