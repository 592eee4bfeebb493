"""A type's codec: msgspec where it can, pydantic where it must, and no constraint that nobody keeps."""

import contextlib
import dataclasses
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import annotated_types
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.app.schemas import Mismatch, Unsupported, codec_for


class Level(IntEnum):
    LOW = 1


class Mood(Enum):
    GOOD = "good"


class Row(TypedDict, total=False):
    n: int


class Pair(NamedTuple):
    a: int
    b: str = ""


class Node(msgspec.Struct):
    below: "list[Node]" = []
    n: Annotated[int, msgspec.Meta(ge=0)] = 0


@dataclasses.dataclass
class Positive:
    n: Annotated[int, annotated_types.Gt(0)]


@dataclasses.dataclass
class ByDefault:
    n: int = pydantic.Field(gt=0)


@pydantic.dataclasses.dataclass
class OwnRules:
    n: int

    @pydantic.field_validator("n")
    @classmethod
    def positive(cls, n: int) -> int:
        if n <= 0:
            raise ValueError("must be positive")
        return n


@dataclasses.dataclass
class Nested:
    rows: list[dict[str, Positive]]


@dataclasses.dataclass
class Cat:
    meows: int


@dataclasses.dataclass
class Dog:
    barks: int


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 3),
        (float, 2.5),
        (bool, True),
        (bytes, b"\x00x"),
        (None, None),
        (list[int], [1]),
        (set[int], {1}),
        (tuple[int, str], (1, "x")),
        (dict[str, list[int]], {"a": [1]}),
        (int | None, None),
        (int | str, "x"),
        (Literal["a", 1], 1),
        (Level, Level.LOW),
        (Mood, Mood.GOOD),
        (Row, {"n": 1}),
        (Pair, Pair(1, "x")),
        (Node, Node([Node()], 2)),
        (Positive, Positive(1)),
        (Cat | Dog, Dog(2)),
        (date | int, date(2026, 1, 2)),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=7)),
        (list[pydantic.HttpUrl], [pydantic.HttpUrl("https://example.org/")]),
        (Any, {"a": [1, None]}),
    ],
)
def test_a_value_comes_back_as_it_was(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    back = codec.restore(codec.encode(value))

    assert (type(back), back) == (type(value), value)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Annotated[int, msgspec.Meta(gt=0)], "0"),
        (Annotated[int, annotated_types.Gt(0)], "0"),
        (Annotated[int, pydantic.Field(gt=0)], "0"),
        (list[Annotated[int, pydantic.Field(gt=0)]], "[0]"),
        (Annotated[list[int], annotated_types.Len(1)], "[]"),
        (Annotated[str, pydantic.AfterValidator(lambda s: s.missing)], '"x"'),
        (Node, '{"n":-1}'),
        (Positive, '{"n":0}'),
        (ByDefault, '{"n":0}'),
        (OwnRules, '{"n":0}'),
        (Nested, '{"rows":[{"a":{"n":0}}]}'),
    ],
)
def test_no_constraint_is_ignored(annotation: Any, text: str) -> None:
    with pytest.raises(Mismatch):
        codec_for(annotation).decode(text)


class FieldInStruct(msgspec.Struct):
    n: int = pydantic.Field(gt=0)


class Mixed(pydantic.BaseModel):
    n: Annotated[int, msgspec.Meta(gt=0)]


@pytest.mark.parametrize("annotation", [FieldInStruct, Mixed, list[Mixed], Annotated[int, lambda n: n > 0]])
def test_a_constraint_that_would_be_ignored_is_refused(annotation: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        codec_for(annotation)

    assert caught.value.fix


def test_a_recursive_type_has_its_schema_on_top_and_itself_below() -> None:
    schema = codec_for(Node).schema

    assert schema["type"] == "object"
    assert schema["properties"]["below"]["items"] == {"$ref": "#/$defs/Node"}
    assert set(schema["$defs"]) == {"Node"}


def test_a_codec_is_made_once_for_a_type() -> None:
    assert codec_for(list[int]) is codec_for(list[int])


def test_plain_data_is_validated_like_json() -> None:
    assert codec_for(Node).from_python({"below": [{}]}) == Node([Node()])
    with pytest.raises(Mismatch, match="`n`: expected an integer"):
        codec_for(Node).from_python({"n": "x"})
    with pytest.raises(Mismatch, match="not plain data"):
        codec_for(Any).from_python(object())


def test_pydantic_is_imported_only_where_a_type_needs_it() -> None:
    program = (
        "import sys, dataclasses\n"
        "from shipworthy.app.tools import tool\n"
        "from shipworthy.app.outputs import output_for\n"
        "@dataclasses.dataclass\n"
        "class D:\n    x: int\n"
        "@tool(effect='read')\n"
        "def f(d: D, n: int | None = None) -> None: ...\n"
        "output_for(D | str)\n"
        "assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_value_or_a_mismatch(value: Any) -> None:
    text = msgspec.json.encode(value)
    for annotation in (Node, Nested, Cat | Dog, list[int], Pair):
        with contextlib.suppress(Mismatch):
            codec_for(annotation).decode(text)
