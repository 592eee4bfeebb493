"""A model's JSON becomes arguments, or words that the model can use."""

import contextlib
import json
import time
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.app.tools import FunctionTool, tool
from shipworthy.errors import InvalidArguments


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Place(TypedDict):
    city: str


@dataclass
class Line:
    item: str
    count: int = 1


class Person(pydantic.BaseModel):
    age: int = pydantic.Field(ge=0)
    name: str


@tool(effect="once")
def pay(amount: int, note: str = "") -> None: ...


@tool(effect="read")
def nothing() -> None: ...


@tool(effect="read")
def order(
    lines: list[Line],
    colour: Colour = Colour.RED,
    speed: Literal["fast", "slow"] = "slow",
    place: Place | None = None,
    price: Decimal = Decimal(0),
    discount: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0,
    extra: Any = None,
) -> None: ...


@tool(effect="read")
def greet(person: Person, others: list[Person] = [], loud: bool = False) -> None:  # noqa: B006
    ...


def words(of: FunctionTool[Any, Any], arguments: str) -> str:
    with pytest.raises(InvalidArguments) as caught:
        of.parse(arguments)
    return str(caught.value)


def test_arguments_are_read_by_the_names_of_the_parameters() -> None:
    args = order.parse('{"lines":[{"item":"pen"}],"colour":"blue","place":{"city":"Rome"},"price":"1.50"}')

    assert args.lines == [Line("pen")]
    assert (args.colour, args.speed, args.place) == (Colour.BLUE, "slow", {"city": "Rome"})
    assert args.price == Decimal("1.50")


def test_pydantic_models_are_validated_by_pydantic() -> None:
    args = greet.parse('{"person":{"age":3,"name":"Al"},"others":[{"age":4,"name":"Bo"}]}')

    assert args.person == Person(age=3, name="Al")
    assert args.others == [Person(age=4, name="Bo")]
    assert args.loud is False


def test_a_mutable_default_is_made_anew_for_each_call() -> None:
    first, second = (greet.parse('{"person":{"age":3,"name":"Al"}}') for _ in range(2))
    first.others.append("leak")

    assert second.others == []
    assert greet.parse('{"person":{"age":3,"name":"Al"}}').others == []


@pytest.mark.parametrize("arguments", ["", " ", "null", "{}", " \n{ } "])
def test_no_arguments_may_be_written_in_any_way_that_models_do(arguments: str) -> None:
    nothing.parse(arguments)
    assert words(pay, arguments) == "`amount` is missing."


@pytest.mark.parametrize(
    ("of", "arguments", "said"),
    [
        (pay, '{"amount":"5"}', "`amount`: expected an integer, got a string."),
        (pay, '{"amount":true}', "`amount`: expected an integer, got a boolean."),
        (pay, '{"note":1}', "`amount` is missing. `note`: expected a string, got an integer."),
        (pay, '{"amount":1,"to":2}', "There is no parameter `to`; there is `amount`, `note`."),
        (nothing, '{"to":2}', "There is no parameter `to`; it takes none."),
        (pay, '{"amount":1,"amount":2}', "`amount` is given twice: give each key once."),
        (pay, '{"amount":1,"\\u0061mount":2}', "`amount` is given twice: give each key once."),
        (order, '{"lines":[],"extra":{"a":{"b":1,"b":2}}}', "`b` is given twice: give each key once."),
        (order, '{"lines":[{"item":"a","count":1,"count":2}]}', "`count` is given twice: give each key once."),
        (greet, '{"person":{"age":1,"name":"A","age":2}}', "`age` is given twice: give each key once."),
        (pay, "[1]", "Expected an object, got a list."),
        (pay, '{"amount":1', "The JSON is malformed: input data was truncated."),
        (pay, "{amount:1}", "The JSON is malformed: object keys must be strings (byte 1)."),
        (pay, '{"amount":1,"note":"\\ud800"}', "The JSON is malformed: it has a \\u escape that is half of a surrogate pair."),  # noqa: E501
        (pay, '{"amount":1,"note":"\ud800"}', "The JSON is not valid Unicode."),
        (pay, '{"amount":NaN}', "The JSON is malformed: invalid character (byte 10)."),
        (pay, '{"amount":1e999}', "`amount`: number out of range."),
        (order, '{"lines":[{"count":2}]}', "`lines[0].item` is missing."),
        (order, '{"lines":[{"item":2}]}', "`lines[...].item`: expected a string, got an integer."),
        (order, '{"lines":[],"colour":"pink"}', '`colour`: \'pink\' is not one of "blue", "red".'),
        (order, '{"lines":[],"speed":"pink"}', '`speed`: \'pink\' is not one of "fast", "slow".'),
        (order, '{"lines":[],"place":{}}', "`place.city` is missing."),
        (order, '{"lines":[],"place":3}', "`place`: expected an object or null, got an integer."),
        (order, '{"lines":[],"discount":2}', "`discount`: expected a number <= 1.0."),
        (greet, '{"person":{"age":-1,"name":"A"}}', "`person.age`: input should be greater than or equal to 0, got -1."),  # noqa: E501
        (greet, '{"person":{"name":2}}', "`person.age` is missing. `person.name`: input should be a valid string, got an integer."),  # noqa: E501
        (greet, '{"person":{"age":1,"name":"A"},"others":[{}]}', "`others[0].age` is missing. `others[0].name` is missing."),  # noqa: E501
        (greet, "{}", "`person` is missing."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_words(of: FunctionTool[Any, Any], arguments: str, said: str) -> None:
    assert words(of, arguments).replace("lines[0].item`: exp", "lines[...].item`: exp") == said


def test_only_the_first_few_of_many_problems_are_told() -> None:
    many = json.dumps({f"wrong_{i}": i for i in range(1000)} | {"amount": 1})

    said = words(pay, many)

    assert said.endswith("And 995 more.")
    assert len(said) < 1000


def test_a_models_own_nonsense_is_not_given_back_to_it_whole() -> None:
    assert len(words(pay, json.dumps({"amount": 1, "x" * 1_000_000: 2}))) < 1000


def test_a_default_of_none_may_be_written_as_null() -> None:
    @tool(effect="read")
    def find(query: str, limit: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    assert find.parse('{"query":"x","limit":null}').limit is None
    assert find.parse('{"query":"x"}').limit is None


def test_a_name_that_occurs_as_a_value_is_not_a_repetition() -> None:
    assert pay.parse('{"amount":1,"note":"amount"}').note == "amount"
    assert (
        order.parse('{"lines":[{"item":"a"},{"item":"b"}],"extra":{"item":{"item":1}}}').lines[1].item == "b"
    )


def test_ten_megabytes_are_parsed_in_linear_time() -> None:
    def seconds(size: int) -> float:
        texts = (
            json.dumps({"amount": 1, "note": 'é\n"amount" ' * (size // 12)}),
            f'{{"amount":{"9" * size}}}',
        )
        started = time.perf_counter()
        assert len(pay.parse(texts[0]).note) > size // 2
        assert "out of range" in words(pay, texts[1])
        return time.perf_counter() - started

    assert seconds(10_000_000) < 100 * max(seconds(1_000_000), 0.02)


def test_nesting_without_end_is_refused_and_not_a_crash() -> None:
    for deep in ("[" * 200_000, "[" * 200_000 + "]" * 200_000):
        assert words(order, f'{{"lines":[],"extra":{deep}}}') == "The JSON is nested too deeply."


def test_a_validator_that_breaks_is_a_refusal() -> None:
    @dataclass
    class Broken:
        x: int

        def __post_init__(self) -> None:
            raise KeyError("oops")

    @tool(effect="read")
    def take(value: Broken) -> None: ...

    assert words(take, '{"value":{"x":1}}') == "`value`: KeyError: 'oops'."


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_is_arguments_or_a_refusal(text: str) -> None:
    for each in (pay, order, greet):
        with contextlib.suppress(InvalidArguments):
            each.parse(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
@settings(max_examples=200, deadline=None)
def test_any_json_value_is_taken_where_the_type_is_open(value: Any) -> None:
    assert order.parse(json.dumps({"lines": [], "extra": value})).extra == value


@given(st.integers(-(2**63), 2**64 - 1), st.text())
@settings(max_examples=200, deadline=None)
def test_what_was_written_is_what_is_read(amount: int, note: str) -> None:
    args = pay.parse(json.dumps({"amount": amount, "note": note}))

    assert (args.amount, args.note) == (amount, note)
