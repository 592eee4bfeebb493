"""How much an attempt may cost, and what it did: bounds are never passed, and no report makes a charge negative."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy import Charge, Message, Price, Usage
from shipworthy.domain.messages import File, Image, Text, Thinking, ToolCall, ToolResult
from shipworthy.domain.model import OutputSpec, ToolSpec
from shipworthy.domain.usage import Reserved, Tier
from shipworthy.rules import budgets
from shipworthy.rules.budgets import (
    MEDIA,
    PER_MESSAGE,
    amount_of,
    arrived,
    base_of,
    charge_of,
    in_full,
    length,
    reserved,
    tokens_around,
    tokens_of,
)
from shipworthy.rules.values import MOST_TOKENS

PRICE = Price(input=3 * 10**9, output=15 * 10**9, cache_read=3 * 10**8, cache_write=375 * 10**7)
LONG = Price(input=10**9, output=5 * 10**9, tiers=(Tier(200, 2 * 10**9, 9 * 10**9),))
PRICES = st.sampled_from([PRICE, LONG, Price(0, 0), Price(1, 1, request=7)])
COUNTS = st.none() | st.integers(-(10**16), 10**16)


@given(st.text())
def test_no_text_has_more_tokens_than_bytes(text: str) -> None:
    assert length(text) == len(text.encode(errors="surrogatepass"))


@pytest.mark.parametrize(
    ("part", "least"),
    [
        (Text("héllo"), 6),
        (ToolCall("look", '{"a": 1}', "call_1"), 4 + 8 + 6),
        (ToolResult(call_id="call_1", name="look", content=(Text("seen"), Text("all"))), 6 + 4 + 4 + 3),
        (Thinking("hm", signature="s" * 40), 42),
        (Thinking("", redacted="r" * 50), 50),
        (Image(media_type="image/png", data=base64.b64encode(b"x" * 9)), MEDIA),
        (Image(media_type="image/png", url="https://x.test/a.png"), MEDIA),
        (File(name="a.txt", media_type="text/plain", data=b"t" * 70), 75),
        (File(name="a.pdf", media_type="application/pdf", data=b"p" * 90), MEDIA),
        (File(name="a.pdf", media_type="application/pdf", data=b"p" * (MEDIA + 1)), MEDIA + 1),
    ],
)
def test_a_part_counts_all_of_its_bytes_and_its_marks(part: Any, least: int) -> None:
    assert tokens_of(Message("user", (part,))) >= least + 2 * PER_MESSAGE


def test_a_conversation_costs_what_its_messages_cost() -> None:
    short, long = Message("user", (Text("a"),)), Message("user", (Text("a" * 1_001),))
    assert tokens_of(long) - tokens_of(short) == 1_000


def test_tools_and_the_shape_of_the_output_count() -> None:
    bare = tokens_around((), None)
    tool = ToolSpec("look", "Look around." * 50, {"type": "object"})
    shaped = OutputSpec("City", {"type": "object", "description": "d" * 300})
    assert bare < tokens_around((), shaped) < tokens_around((tool,), shaped)
    assert tokens_around((tool, tool), None) - tokens_around((tool,), None) >= 600


# charges


@given(PRICES, st.integers(0, 10**6), st.integers(1, 10**5), COUNTS, COUNTS, COUNTS, COUNTS)
def test_no_report_makes_a_charge_negative_or_unknown(
    price: Price, asked: int, units: int, given_: Any, made: Any, read: Any, written: Any
) -> None:
    hold = reserved("h", price, asked, units)
    charge = charge_of(Usage(given_, made, read, written), hold, units, price)
    assert 0 <= charge.input_tokens < max(MOST_TOKENS, asked + 1)
    assert 0 <= charge.output_tokens < max(MOST_TOKENS, units + 1)
    assert charge.cost is not None
    assert 0 <= charge.cost < 2**63


@given(PRICES, st.integers(0, 5_000), st.integers(1, 500), st.data())
def test_what_is_reserved_is_enough_for_every_usage_within_it(
    price: Price, asked: int, units: int, data: st.DataObject
) -> None:
    whole = data.draw(st.integers(0, asked))
    read = data.draw(st.integers(0, whole))
    written = data.draw(st.integers(0, whole - read))
    hold = reserved("h", price, asked, units)
    charge = charge_of(Usage(whole, data.draw(st.integers(0, units)), read, written), hold, units, price)
    full = in_full(hold, units)
    for unit in ("tokens", "input_tokens", "output_tokens", "cost_usd", "requests"):
        base, each = base_of(unit, hold)  # type: ignore[arg-type]
        assert amount_of(unit, charge) <= base + each * units == amount_of(unit, full)  # type: ignore[arg-type]


@given(PRICES, st.integers(0, 5_000), st.integers(1, 500), st.integers(0, 10**6))
def test_what_arrived_of_a_stream_is_between_its_input_and_everything(
    price: Price, asked: int, units: int, size: int
) -> None:
    hold = reserved("h", price, asked, units)
    charge = arrived(hold, units, size)
    assert in_full(hold, 0).cost <= charge.cost <= in_full(hold, units).cost  # type: ignore[operator]
    assert (charge.input_tokens, charge.output_tokens) == (asked, min(units, size))


def test_a_report_is_believed_where_it_can_be() -> None:
    hold = reserved("h", PRICE, 1_000, 100)
    charge = charge_of(Usage(input_tokens=40, output_tokens=20, cache_read_tokens=30), hold, 100, PRICE)
    assert charge == Charge(40, 20, 10 * 3_000 + 30 * 300 + 20 * 15_000)


def test_more_than_was_reserved_is_charged() -> None:
    hold = reserved("h", PRICE, 10, 10)
    assert charge_of(Usage(5_000, 700), hold, 10, PRICE) == Charge(5_000, 700, 5_000 * 3_000 + 700 * 15_000)


def test_nothing_has_a_cost_where_no_price_is_known() -> None:
    hold = reserved("h", None, 10, 20)
    assert hold == Reserved("h", 10, 20)
    assert in_full(hold, 20) == Charge(10, 20)
    assert charge_of(Usage(1, 2), hold, 20, None) == Charge(1, 2)
    assert base_of("cost_usd", hold) == (0, 0)
    assert amount_of("cost_usd", Charge(1, 2)) == 0


def test_calls_of_tools_are_no_part_of_an_attempt() -> None:
    hold = reserved("h", PRICE, 10, 20)
    assert (base_of("tool_calls", hold), amount_of("tool_calls", Charge(1, 2, 3))) == ((0, 0), 0)


def test_reports_that_are_all_believed_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    law = test_no_report_makes_a_charge_negative_or_unknown.hypothesis.inner_test  # type: ignore[attr-defined]
    law(PRICE, 10, 10, -40, 5, None, None)
    monkeypatch.setattr(budgets, "_plausible", lambda tokens: tokens)
    with pytest.raises(AssertionError):
        law(PRICE, 10, 10, -40, 5, None, None)
