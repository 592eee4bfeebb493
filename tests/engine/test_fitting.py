"""Answers are held to their question's JSON Schema as JSON Schema says, but that 3.0 is no integer and formats count;
in a time that is linear in the answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shipworthy.engine import fitting
from shipworthy.engine.fitting import misfit_data

UNIQUE = {"type": "array", "uniqueItems": True}
VALUES = st.recursive(
    st.sampled_from(
        [None, True, False, 0, 1, 0.0, 1.0, 1.5, -0.0, 2**70, float(2**70), "", "1", "true", "null"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab1"), inner, max_size=2),
    max_leaves=4,
)


@given(st.lists(VALUES, max_size=4))
def test_items_are_the_same_where_json_schema_says_so(items: list[Any]) -> None:
    assert (misfit_data(items, UNIQUE) is None) == Draft202012Validator(UNIQUE).is_valid(items)


@pytest.mark.parametrize(
    ("items", "fits"),
    [
        ([1, 1.0], False),
        ([1, True], True),
        ([0, False], True),
        ([[1], [True]], True),
        ([{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], False),
    ],
)
def test_one_and_one_point_nought_are_the_same_and_true_is_not(items: list[Any], fits: bool) -> None:
    assert (misfit_data(items, UNIQUE) is None) is fits


def test_items_are_not_compared_with_one_another() -> None:
    """Each is looked at as often as there are items of it, and no more."""
    looks = 0

    class Item(dict[str, int]):
        def __eq__(self, other: object) -> bool:
            nonlocal looks
            looks += 1
            return super().__eq__(other)

        __hash__ = None  # type: ignore[assignment]

    assert misfit_data([Item(a=i) for i in range(300)], UNIQUE) is None
    assert looks == 0


def test_the_first_wrong_item_is_told_of_and_no_other_is_looked_at() -> None:
    class Items(list[Any]):
        def __iter__(self) -> Any:
            yield "wrong"
            raise AssertionError("it was looked at")

    assert misfit_data(Items(["wrong", 1]), {"items": {"type": "integer"}}) == (
        "$[0]: 'wrong' is not of type 'integer'"
    )


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 3.0),
        ({"type": "integer"}, True),
        ({"format": "date"}, "20260228"),
        ({"format": "date-time"}, "2026-02-28"),
        ({"format": "date-time"}, "2026-02-28T24:00:00Z"),
        ({"format": "time"}, "24:00:00"),
        ({"format": "duration"}, "P"),
        ({"format": "uuid"}, "00000000-0000-0000-0000-00000000000g"),
        ({"format": "decimal"}, "one"),
        ({"format": "ipv4"}, "1.2.3.256"),
        ({"contentEncoding": "base64"}, "a"),
        ({"multipleOf": 0.5}, 10**400),
        ({"$ref": "#/$defs/none"}, 1),
        ({"$ref": "https://example.com/schema"}, 1),
        ({"type": "wish"}, 1),
    ],
)
def test_what_does_not_fit_is_told_in_words(schema: Any, data: Any) -> None:
    assert misfit_data(data, schema)


@pytest.mark.parametrize("data", [1, None, [], {}])
@pytest.mark.parametrize("name", ["date", "date-time", "time", "duration", "uuid", "decimal", "unheard-of"])
def test_a_format_is_of_texts(name: str, data: Any) -> None:
    assert misfit_data(data, {"format": name}) is None
    assert misfit_data("x", {"format": "unheard-of"}) is None


MUTANTS: dict[str, tuple[str, Any, Any, Any]] = {
    "items compared by their spelling": ("_plain", lambda value: value, [1, 1.0], UNIQUE),
    "formats for show": ("_reads", lambda kind, value: True, "tomorrow", {"format": "date"}),
    "the draft as it is": ("_validator", lambda: Draft202012Validator, 3.0, {"type": "integer"}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_check_that_is_left_out_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part, broken, wrong, schema = MUTANTS[name]
    assert misfit_data(wrong, schema) is not None
    fitting._validator.cache_clear()  # it holds the parts
    with monkeypatch.context() as patched:
        patched.setattr(fitting, part, broken)
        assert misfit_data(wrong, schema) is None
    fitting._validator.cache_clear()
