"""What `@tool` reads from a function, and what it refuses."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pydantic
import pytest

from shipworthy.app.tools import FunctionTool, tool
from shipworthy.domain.context import RunContext
from shipworthy.errors import EffectRequired, InvalidTool

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


@dataclass
class Money:
    amount: Annotated[int, "in cents"]
    currency: str = "EUR"


class Order(pydantic.BaseModel):
    item: str
    count: int = pydantic.Field(gt=0)


def test_a_tool_is_described_by_its_signature_and_docstring() -> None:
    @tool(effect="read")
    async def weather(ctx: RunContext[str], city: str, days: int = 1) -> str:
        """Current weather.

        Args:
            city: Where.
            days: How many.
        """
        return city * days

    assert weather.spec.name == "weather"
    assert weather.spec.description == "Current weather."
    assert weather.spec.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "days": {"type": "integer", "description": "How many.", "default": 1},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_a_tool_stays_the_function_that_it_was() -> None:
    @tool(effect="read")
    def double(n: int) -> int:
        """Twice."""
        return 2 * n

    assert isinstance(double, FunctionTool)
    assert double(4) == 8
    assert (double.__name__, double.__doc__, double.__wrapped__(4)) == ("double", "Twice.", 8)


def test_an_annotated_description_wins_over_the_docstring() -> None:
    @tool(effect="read")
    def find(query: Annotated[str, "What to look for."]) -> str:
        """Find.

        :param query: something else
        """
        return query

    assert find.spec.parameters["properties"]["query"]["description"] == "What to look for."


def test_name_and_description_can_be_given() -> None:
    made = tool(lambda: "", effect="read", name="nothing", description="Does nothing.")

    assert (made.spec.name, made.spec.description) == ("nothing", "Does nothing.")


def test_fields_of_nested_types_keep_their_descriptions_and_constraints() -> None:
    @tool(effect="read")
    def pay(money: Money, order: Order, tip: Annotated[int, msgspec.Meta(ge=0)] = 0) -> None: ...

    properties = pay.spec.parameters["properties"]
    assert properties["money"]["properties"]["amount"] == {"type": "integer", "description": "in cents"}
    assert properties["order"]["properties"]["count"]["exclusiveMinimum"] == 0
    assert properties["tip"] == {"type": "integer", "minimum": 0, "default": 0}


def test_types_of_one_name_do_not_overwrite_each_other() -> None:
    def one() -> type:
        return msgspec.defstruct("Same", [("a", int)], module="one")

    def other() -> type:
        return pydantic.create_model("Same", b=(str, ...))

    first, second = list[one()], list[other()]  # type: ignore[misc]

    @tool(effect="read")
    def both(x: first, y: second) -> None: ...  # type: ignore[valid-type]

    schema = both.spec.parameters
    x, y = (schema["properties"][n]["items"]["$ref"].rpartition("/")[2] for n in "xy")
    assert set(schema["$defs"][x]["properties"]) == {"a"}
    assert set(schema["$defs"][y]["properties"]) == {"b"}


def test_types_that_are_local_to_a_function_are_found() -> None:
    @dataclass
    class Local:
        x: int

    @tool(effect="read")
    def take(value: Local) -> int:
        return value.x

    assert take(take.parse('{"value":{"x":3}}').value) == 3


def test_a_bound_method_and_a_partial_are_functions_too() -> None:
    class Shop:
        def stock(self, item: str) -> int:
            return len(item)

    def add(a: int, b: int) -> int:
        return a + b

    assert list(tool(Shop().stock, effect="read").spec.parameters["properties"]) == ["item"]
    partial: FunctionTool[Any, int] = tool(functools.partial(add, 1), effect="read", name="add")
    assert list(partial.spec.parameters["properties"]) == ["b"]


def test_a_context_that_is_only_imported_for_type_checkers_is_known_by_its_name() -> None:
    def body(ctx: Any, n: int) -> int:
        return n

    body.__annotations__["ctx"] = "RunContext[OnlyForCheckers]"

    assert list(tool(body, effect="read").spec.parameters["properties"]) == ["n"]


def test_an_effect_is_required_and_its_choices_are_explained() -> None:
    def charge(amount: int) -> None: ...

    for effect in (None, "write"):
        with pytest.raises(EffectRequired, match=r"'charge'.*\"read\".*\"idempotent\".*\"once\""):
            tool(charge, effect=effect)  # type: ignore[call-overload]
    with pytest.raises(EffectRequired):
        tool()  # type: ignore[call-overload]


def star(*amounts: int) -> None: ...
def stars(**amounts: int) -> None: ...
def positional(amount: int, /) -> None: ...
def unannotated(amount) -> None: ...  # type: ignore[no-untyped-def]
def method(self, amount: int) -> None: ...  # type: ignore[no-untyped-def]
def bare_context(ctx, amount: int) -> None: ...  # type: ignore[no-untyped-def]
def late_context(amount: int, ctx: RunContext[None]) -> None: ...
def optional_context(ctx: RunContext[None] | None, amount: int) -> None: ...
def hidden(amount: OnlyForCheckers) -> None: ...
def lazy(amounts: Iterable[int]) -> None: ...
def opaque(amount: type[int]) -> None: ...
def unknown_constraint(amount: Annotated[int, range(5)]) -> None: ...
def mixed(amount: Annotated[list[Order], msgspec.Meta(min_length=1)]) -> None: ...
def field_default(amount: int = pydantic.Field(gt=0)) -> None: ...  # type: ignore[assignment]
def reserved(__amount: int) -> None: ...
def generator(amount: int) -> Iterable[int]:
    yield amount


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (star, r"`amounts`.*\*amounts.*list or dict"),
        (stars, r"`amounts`.*\*\*amounts.*list or dict"),
        (positional, r"`amount`.*positional-only.*Remove the `/`"),
        (unannotated, r"`amount`.*no annotation.*`amount: str`"),
        (method, r"`self`.*bound method"),
        (bare_context, r"`ctx`.*`ctx: RunContext`"),
        (late_context, r"`ctx`.*not the first.*Put it first"),
        (optional_context, r"`ctx`.*not the first"),
        (hidden, r"`amount`.*'OnlyForCheckers'.*TYPE_CHECKING"),
        (lazy, r"`amounts`.*lazily.*list"),
        (opaque, r"`amount`.*class cannot be written as JSON"),
        (unknown_constraint, r"`amount`.*range\(0, 5\)"),
        (mixed, r"`amount`.*pydantic\.Field"),
        (field_default, r"`amount`.*Annotated\[<type>, Field"),
        (reserved, r"`__amount`.*reserves"),
        (generator, r"'generator'.*whole result"),
    ],
)
def test_a_parameter_that_no_model_can_fill_is_refused_with_its_fix(fn: Any, words: str) -> None:
    with pytest.raises(InvalidTool, match=words):
        tool(fn, effect="read")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"effect": "once", "retries": 1}, "idempotency_key"),
        ({"effect": "read", "retries": -1}, "0 or more"),
        ({"effect": "read", "timeout": 0}, "seconds above 0"),
        ({"effect": "read", "timeout": float("nan")}, "seconds above 0"),
        ({"effect": "read", "max_result": 0}, "characters above 0"),
        ({"effect": "read", "verify": lambda ctx, args: None}, 'only a "once"'),
        ({"effect": "once", "verify": lambda ctx: None}, r"does not take \(ctx, args\)"),
        ({"effect": "read", "name": "pay now"}, "64 letters"),
        ({"effect": "read", "name": "x" * 65}, "64 letters"),
    ],
)
def test_an_option_that_would_do_nothing_or_harm_is_refused(options: dict[str, Any], words: str) -> None:
    def pay(amount: int) -> None: ...

    with pytest.raises(InvalidTool, match=words):
        tool(pay, **options)
