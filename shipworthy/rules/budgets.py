"""How much an attempt may cost, and what it did cost. Bounds are upper bounds: a token is at least one byte of what is
sent (byte-level vocabularies), plus what providers add around messages and tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from shipworthy.domain.ledger import Unit
from shipworthy.domain.messages import File, Image, Message, Text, Thinking, ToolCall, ToolResult
from shipworthy.domain.model import OutputSpec, ToolSpec
from shipworthy.domain.usage import Charge, Price, Reserved, Usage
from shipworthy.rules.prices import bound, cost_of

PER_MESSAGE = 16
"""Tokens that mark where a message, or a part of one, begins and ends."""
PER_REQUEST = 32
"""Tokens that a provider adds around a request."""
WITH_TOOLS = 1024
"""Tokens of its own words about tools, where there are any."""
PER_TOOL = 64
MEDIA = 50_000
"""Tokens of an image, or of a file that is not text: what the dearest tiling of a large image comes to."""
MOST = 1 << 32
"""Tokens that no attempt has: a report of more is taken for none."""
_json = msgspec.json.Encoder()


def tokens_of(message: Message) -> int:
    """The most tokens that a message can have."""
    return PER_MESSAGE + sum([PER_MESSAGE + _part(part) for part in message.parts])


def _part(part: Any) -> int:
    match part:
        case Text():
            return length(part.text)
        case ToolCall():
            return length(part.name) + length(part.raw_arguments) + len(part.call_id)
        case ToolResult():
            inside = sum([PER_MESSAGE + _part(content) for content in part.content])
            return inside + length(part.name) + len(part.call_id)
        case Thinking():
            return length(part.text) + len(part.signature or "") + len(part.redacted or "")
        case Image():
            return MEDIA
        case File():
            size = len(part.data) if part.media_type.startswith("text/") else max(len(part.data), MEDIA)
            return size + length(part.name)
        case _:
            return MEDIA


def length(text: str) -> int:
    """Bytes of a text as UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def tokens_around(tools: Iterable[ToolSpec], output: OutputSpec | None) -> int:
    """The most tokens that a request has besides its instructions and its messages."""
    specs = sum([PER_TOOL + len(_json.encode(tool)) for tool in tools])
    shape = 0 if output is None else PER_TOOL + len(_json.encode(output))
    return PER_REQUEST + shape + (specs + WITH_TOOLS if specs else 0)


def reserved(id: str, price: Price | None, input_tokens: int, output_tokens: int) -> Reserved:
    """The most that an attempt may be charged."""
    if price is None:
        return Reserved(id, input_tokens, output_tokens)
    base, each = bound(price, input_tokens)
    return Reserved(id, input_tokens, output_tokens, base, each)


def in_full(hold: Reserved, units: int) -> Charge:
    """What a hold is charged whose cost is not known; *units* output tokens had been granted."""
    return Charge(hold.input_tokens, units, None if hold.base is None else hold.base + hold.each * units)


def charge_of(usage: Usage, hold: Reserved, units: int, price: Price | None) -> Charge:
    """What an answer is charged: as its provider reported, and in full where it reported nothing or nonsense."""
    given, made = _plausible(usage.input_tokens), _plausible(usage.output_tokens)
    full = in_full(hold, units)
    if given is None or made is None:
        return Charge(
            full.input_tokens if given is None else given,
            full.output_tokens if made is None else made,
            full.cost,
        )
    cached = [n for n in (usage.cache_read_tokens, usage.cache_write_tokens) if n is not None]
    if price is None or not all([0 <= n < MOST for n in cached]):
        return Charge(given, made, full.cost)
    return Charge(given, made, cost_of(price, usage))


def arrived(hold: Reserved, units: int, size: int) -> Charge:
    """What a stream is charged that broke off after *size* bytes: its input in full, and what arrived of its output."""
    made = min(units, size)
    return Charge(hold.input_tokens, made, None if hold.base is None else hold.base + hold.each * made)


def _plausible(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 <= tokens < MOST else None


def base_of(unit: Unit, hold: Reserved) -> tuple[int, int]:
    """What a hold takes of a counter of this unit: anyway, and for each output token."""
    match unit:
        case "tokens":
            return hold.input_tokens, 1
        case "input_tokens":
            return hold.input_tokens, 0
        case "output_tokens":
            return 0, 1
        case "cost_usd":
            return hold.base or 0, hold.each
        case _:
            return (1, 0) if unit == "requests" else (0, 0)


def amount_of(unit: Unit, charge: Charge) -> int:
    """What a charge takes of a counter of this unit."""
    match unit:
        case "tokens":
            return charge.input_tokens + charge.output_tokens
        case "input_tokens":
            return charge.input_tokens
        case "output_tokens":
            return charge.output_tokens
        case "cost_usd":
            return charge.cost or 0
        case _:
            return 1 if unit == "requests" else 0


def amounts_of(units: Sequence[Unit], charge: Charge) -> tuple[int, ...]:
    """What a charge takes of each counter."""
    return tuple([amount_of(unit, charge) for unit in units])
