"""An output type asks the model in its way, reads the answer, and keeps it in the journal."""

import asyncio
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.app.outputs import TEXT, OutputMode, output_for
from shipworthy.domain.context import RunContext
from shipworthy.errors import ConfigurationError, InvalidOutput, InvalidOutputType, ModelRetry
from tests.tools.context import context


@dataclass
class Refund:
    """Money goes back."""

    amount: int


@dataclass
class Charge:
    amount: int


class Report(pydantic.BaseModel):
    title: str
    pages: int = pydantic.Field(gt=0, alias="pageCount")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def long(self) -> bool:
        return self.pages > 9


class Tree(pydantic.BaseModel):
    below: "list[Tree]" = []


class Place(TypedDict):
    city: str


class Pair(NamedTuple):
    a: int
    b: str


def test_text_is_a_shared_output_that_asks_for_nothing() -> None:
    assert output_for(str) is TEXT
    assert (TEXT.tools, TEXT.native, TEXT.words, TEXT.names) == ((), None, "", ())
    assert TEXT.parse("anything", None) == "anything"
    assert TEXT.decode(TEXT.encode("half \ud800")) == "half �"


def test_an_object_type_is_one_tool_with_its_own_schema() -> None:
    (spec,) = output_for(Refund).tools

    assert spec.name == "final_answer"
    assert spec.description.endswith("Money goes back.")
    assert spec.parameters["properties"] == {"amount": {"type": "integer"}}
    assert output_for(Refund).parse('{"amount":5}', "final_answer") == Refund(5)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int, 5), (bool, True), (None, None), (list[Refund], [Refund(1)]), (Pair, Pair(1, "x"))],
)
def test_what_is_no_object_is_asked_for_in_a_field(annotation: Any, value: Any) -> None:
    output = output_for(annotation)
    answer = msgspec.json.encode({"response": value}).decode()

    assert set(output.tools[0].parameters["properties"]) == {"response"}
    assert output.parse(answer, "final_answer") == value


def test_a_union_is_one_tool_for_each_member_and_keeps_which_it_was() -> None:
    output = output_for(Refund | Charge)

    assert output.names == ("final_answer_Refund", "final_answer_Charge")
    for name, value in (("final_answer_Refund", Refund(5)), ("final_answer_Charge", Charge(5))):
        assert output.parse('{"amount":5}', name) == value
        assert output.decode(output.encode(value)) == value
        assert type(output.decode(output.encode(value))) is type(value)


def test_scalars_of_a_union_share_one_tool() -> None:
    assert output_for(int | bool | None).names == ("final_answer",)
    assert output_for(Refund | int | None).names == ("final_answer_Refund", "final_answer_value")


def test_text_in_a_union_is_allowed_beside_the_tool() -> None:
    output = output_for(str | Refund)

    assert output.names == ("final_answer",)
    assert output.parse("I cannot.", None) == "I cannot."
    assert output.parse('{"amount":5}', "final_answer") == Refund(5)
    assert [output.decode(output.encode(v)) for v in ("I cannot.", Refund(5))] == ["I cannot.", Refund(5)]


def test_text_is_refused_where_a_tool_is_asked_for() -> None:
    with pytest.raises(InvalidOutput, match="calling `final_answer_Refund` or `final_answer_Charge`"):
        output_for(Refund | Charge).parse("here you are", None)
    with pytest.raises(InvalidOutput, match="calling `final_answer`"):
        output_for(Refund).parse('{"amount":5}', "final_answer_Refund")


def test_native_mode_gives_the_schema_to_the_provider() -> None:
    output = output_for(Report, mode="native")

    assert output.tools == ()
    assert output.native is not None
    assert set(output.native.schema["properties"]) == {"title", "pageCount"}
    assert output.parse('{"title":"T","pageCount":3}', None).pages == 3


@pytest.mark.parametrize(
    "answer", ['{"amount":5}', ' {"amount": 5}\n', '```json\n{"amount":5}\n```', '\n```\n{"amount":5}\n```\n']
)
def test_prompted_mode_says_the_schema_in_words_and_takes_a_fence(answer: str) -> None:
    output = output_for(Refund, mode="prompted")

    assert '"amount":{"type":"integer"}' in output.words
    assert (output.tools, output.native) == ((), None)
    assert output.parse(answer, None) == Refund(5)


@pytest.mark.parametrize("mode", ["native", "prompted"])
def test_a_union_outside_of_tools_is_one_schema(mode: OutputMode) -> None:
    output = output_for(Report | str | None, mode=mode)

    for answer in ('{"response":null}', '{"response":"x"}', '{"response":{"title":"T","pageCount":1}}'):
        value = output.parse(answer, None)
        assert output.decode(output.encode(value)) == value


@pytest.mark.parametrize(
    ("annotation", "answer", "said"),
    [
        (Refund, '{"amount":"5"}', "`amount`: expected an integer, got a string."),
        (Refund, '{"amount":', "The JSON is malformed: input data was truncated."),
        (Report, '{"title":"T","pageCount":0}', "`pageCount`: input should be greater than 0, got 0."),
        (Report, '{"pageCount":"x"}', "`title` is missing. `pageCount`: input should be a valid integer, unable to parse string as an integer, got a string."),  # noqa: E501
        (int, '{"response":"x"}', "`response`: expected an integer, got a string."),
        (Literal["a", "b"], '{"response":"c"}', "`response`: 'c' is not one of \"a\", \"b\"."),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_refused_in_words(annotation: Any, answer: str, said: str) -> None:
    with pytest.raises(InvalidOutput) as caught:
        output_for(annotation).parse(answer, "final_answer")

    assert said in str(caught.value).replace("Invalid enum value 'c'", '\'c\' is not one of "a", "b"')
    assert "http" not in str(caught.value)


@pytest.mark.parametrize(
    "annotation", [object(), [Refund, Charge], lambda v: v, type[int], Annotated[int, range(3)]]
)
def test_a_type_that_nobody_validates_is_refused_with_a_fix(annotation: Any) -> None:
    with pytest.raises(InvalidOutputType) as caught:
        output_for(annotation)

    assert caught.value.fix


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'auto', 'tool', 'native', 'prompted'"):
        output_for(int, mode="xml")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- validators


def checked(annotation: Any, value: Any, *validators: Any) -> Any:
    return asyncio.run(output_for(annotation, validators=validators).check(context("deps"), value))


def test_validators_run_in_order_and_what_they_return_is_the_output() -> None:
    async def with_context(ctx: RunContext[str], value: str) -> str:
        return f"{value} {ctx.deps}"

    def shout(value: str) -> str:
        return value.upper()

    assert checked(str, " hi", str.strip, with_context, shout) == "HI DEPS"


def test_a_validator_rejects_with_words_for_the_model() -> None:
    def rejects(value: int) -> int:
        raise ValueError("must be even")

    def asks_again(value: int) -> int:
        raise ModelRetry("try harder")

    with pytest.raises(InvalidOutput, match="must be even"):
        checked(int, 3, rejects)
    with pytest.raises(ModelRetry, match="try harder"):
        checked(int, 3, asks_again)


def test_a_validator_that_forgets_to_return_the_value_is_found_out() -> None:
    def forgets(value: Refund) -> None: ...

    with pytest.raises(InvalidOutputType, match=r"forgets returned NoneType.*Return the value"):
        checked(Refund, Refund(5), forgets)
    with pytest.raises(InvalidOutputType, match="forgets returned NoneType"):
        checked(str, "x", forgets)


@pytest.mark.parametrize("validator", [lambda: 1, lambda a, b, c: a, lambda *, value: value, "strip"])
def test_a_validator_that_takes_no_value_is_refused(validator: Any) -> None:
    with pytest.raises(InvalidOutputType):
        output_for(str, validators=(validator,))


# ------------------------------------------------------------------------------------------- journal


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Report, Report(title="T", pageCount=12)),
        (Report | Refund, Report(title="T", pageCount=12)),
        (list[Report], [Report(title="T", pageCount=12)]),
        (Tree, Tree(below=[Tree(), Tree(below=[Tree()])])),
        (Place, {"city": "Rome"}),
        (dict[str, date], {"d": date(2026, 1, 2)}),
        (date | str, date(2026, 1, 2)),
        (str, "2026-01-02"),
        (Refund | None, None),
    ],
)
@pytest.mark.parametrize("mode", ["tool", "native", "prompted"])
def test_an_output_survives_the_journal(annotation: Any, value: Any, mode: OutputMode) -> None:
    output = output_for(annotation, mode=mode)

    assert output.decode(output.encode(value)) == value


def test_a_recorded_output_of_a_type_that_has_changed_is_an_error_that_says_so() -> None:
    text = output_for(Report).encode(Report(title="T", pageCount=1))

    for changed in (Refund, Refund | Charge, str, int):
        with pytest.raises(InvalidOutput, match="recorded output"):
            output_for(changed).decode(text)


@given(
    st.one_of(
        st.builds(Refund, st.integers(-(2**60), 2**60)),
        st.builds(Charge, st.integers(0, 9)),
        st.text(),
        st.none(),
    )
)
@settings(max_examples=200, deadline=None)
def test_every_value_of_a_union_comes_back_as_it_was(value: Any) -> None:
    output = output_for(Refund | Charge | str | None)
    back = output.decode(output.encode(value))

    assert (type(back), back) == (type(value), value)
