"""How much an attempt may cost, and what it did cost. Bounds are upper bounds: a token is at least one byte of what is
sent (byte-level vocabularies), plus what providers add around messages and tools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shipworthy.domain.ledger import Unit
from shipworthy.domain.messages import File, Message, Text, Thinking, ToolCall, ToolResult
from shipworthy.domain.model import OutputSpec, ToolSpec
from shipworthy.domain.usage import Charge, Price, Reserved, Usage
from shipworthy.rules.prices import bound, cost_of
from shipworthy.rules.values import MOST_TOKENS

PER_MESSAGE = 16
"""Tokens that mark where a message, or a part of one, begins and ends."""
PER_REQUEST = 32
"""Tokens that a provider adds around a request."""
WITH_TOOLS = 1024
"""Tokens of its own words about tools, where there are any."""
PER_TOOL = 64
PER_SHAPE = 256
"""Tokens around the output's schema, which counts twice: adapters write down in it what a provider does not take."""
MEDIA = 50_000
"""Tokens of an image, or of a file that is not text: what the dearest tiling of a large image comes to."""
UNBOUNDED = frozenset(
    {
        # how much is answered, and how often
        *(
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "max_new_tokens",
            "max_tokens_to_sample",
        ),
        *("num_predict", "n_predict", "options", "n", "best_of", "min_tokens"),
        # what is asked, and of whom, which is counted and priced as the run has it
        *("messages", "input", "prompt", "instructions", "system", "conversation", "previous_response_id"),
        *("model", "models", "fallbacks", "route", "provider"),
        # tools that the provider runs, with turns and fees of its own
        *(
            "tools",
            "functions",
            "mcp_servers",
            "container",
            "web_search_options",
            "plugins",
            "context_management",
        ),
        # other rates than the price list's
        *("service_tier", "speed", "inference_geo", "modalities", "audio", "prediction", "background"),
    }
)
"""Settings of vendors that a budget does not let through `extra`: they set or multiply what it bounds."""
_json = msgspec.json.Encoder()
_object = msgspec.json.Decoder(dict[str, Any])


def tokens_of(message: Message) -> int:
    """The most tokens that a message can have."""
    tokens = PER_MESSAGE
    for part in message.parts:
        tokens += PER_MESSAGE + _part(part)
    return tokens


def _part(part: Any) -> int:
    kind = type(part)
    if kind is Text:
        return length(part.text)
    if kind is ToolCall:
        return length(part.name) + _arguments(part) + length(part.call_id)
    if kind is ToolResult:
        inside = sum([PER_MESSAGE + _part(content) for content in part.content])
        return inside + length(part.name) + length(part.call_id)
    if kind is Thinking:
        return length(part.text) + length(part.signature or "") + length(part.redacted or "")
    if kind is File:
        return _content(part) + length(part.name) + length(part.media_type) + PER_TOOL
    return MEDIA  # images, and whatever is not text


def _arguments(call: ToolCall) -> int:
    """Bytes of a call's arguments, as written or as another encoder writes them: what is no JSON object goes back as a
    text in one, escaped."""
    given = call.raw_arguments
    try:
        again = len(_json.encode(_object.decode(given)))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        again = PER_TOOL + len(_json.encode(given.encode(errors="replace").decode()))
    return max(length(given), again)


def _content(file: File) -> int:
    """Tokens of a file's content. Where a text is not UTF-8, each wrong byte may be sent as a mark of three."""
    size = len(file.data)
    if not file.media_type.startswith("text/"):
        return max(size, MEDIA)
    try:
        file.data.decode()
    except UnicodeDecodeError:
        return 3 * size
    return size


def length(text: str) -> int:
    """Bytes of a text as UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def tokens_around(tools: Iterable[ToolSpec], output: OutputSpec | None) -> int:
    """The most tokens that a request has besides its instructions and its messages."""
    specs = sum([PER_TOOL + len(_json.encode(tool)) for tool in tools])
    shape = 0 if output is None else PER_SHAPE + 2 * len(_json.encode(output))
    return PER_REQUEST + shape + (specs + WITH_TOOLS if specs else 0)


def tokens_beside(extra: Mapping[str, Any] | None) -> int:
    """The most tokens that the vendor's own settings add to a request."""
    return len(_json.encode(extra)) if extra else 0


def beyond_bounds(extra: Mapping[str, Any] | None) -> str | None:
    """The setting in *extra* that could make a call dearer than what is reserved for it; None if there is none."""
    for field, value in (extra or {}).items():
        if field == "extra_body":
            found = beyond_bounds(value) if isinstance(value, Mapping) else None
        else:
            found = field if field in UNBOUNDED or _is_dearer_cache(field, value) else None
        if found is not None:
            return found
    return None


def _is_dearer_cache(field: str, value: Any) -> bool:
    """A cache that is kept for longer than the five minutes that its price is for."""
    return field == "cache_control" and isinstance(value, Mapping) and value.get("ttl", "5m") != "5m"


def reserved(id: str, price: Price | None, input_tokens: int, output_tokens: int) -> Reserved:
    """The most that an attempt may be charged."""
    if price is None:
        return Reserved(id, input_tokens, output_tokens)
    base, each = bound(price, input_tokens)
    return Reserved(id, input_tokens, output_tokens, base, each)


def in_full(hold: Reserved, units: int) -> Charge:
    """What a hold is charged whose cost is not known; *units* output tokens had been granted."""
    return Charge(hold.input_tokens, units, _cost(hold, units))


def charge_of(usage: Usage, hold: Reserved, units: int, price: Price | None) -> Charge:
    """What an answer is charged: as its provider reported, and in full where it reported nothing or nonsense."""
    given, made = _plausible(usage.input_tokens), _plausible(usage.output_tokens)
    if given is not None and made is not None:
        if price is not None and _is_plausible(usage.cache_read_tokens, usage.cache_write_tokens):
            return Charge(given, made, cost_of(price, usage))
        return Charge(given, made, _cost(hold, units))
    return Charge(
        hold.input_tokens if given is None else given, units if made is None else made, _cost(hold, units)
    )


def _cost(hold: Reserved, units: int) -> int | None:
    """What this many output tokens cost at most, with the input."""
    return None if hold.base is None else hold.base + hold.each * units


def exceeds(charge: Charge, hold: Reserved, units: int) -> bool:
    """Whether a provider billed above what was reserved."""
    return (
        charge.input_tokens > hold.input_tokens
        or charge.output_tokens > units
        or (charge.cost or 0) > (_cost(hold, units) or 0)
    )


def arrived(hold: Reserved, units: int, size: int) -> Charge:
    """What a stream is charged that broke off after *size* bytes: its input in full, and what arrived of its output."""
    made = min(units, size)
    return Charge(hold.input_tokens, made, _cost(hold, made))


def broken(usage: Usage, hold: Reserved, units: int, price: Price | None, size: int) -> Charge:
    """What an attempt is charged that failed after its provider had reported *usage*: that, but for output at least the
    *size* bytes that arrived of it."""
    made = _plausible(usage.output_tokens)
    if made is not None:
        made = max(made, min(units, size))
    elif size:
        made = min(units, size)
    return charge_of(msgspec.structs.replace(usage, output_tokens=made), hold, units, price)


def _plausible(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 <= tokens < MOST_TOKENS else None


def _is_plausible(*cached: int | None) -> bool:
    return all([n is None or 0 <= n < MOST_TOKENS for n in cached])


def base_of(unit: Unit, hold: Reserved) -> tuple[int, int]:
    """What a hold takes of a counter of this unit: anyway, and for each output token."""
    if unit == "tokens":
        return hold.input_tokens, 1
    if unit == "cost_usd":
        return hold.base or 0, hold.each
    if unit == "input_tokens":
        return hold.input_tokens, 0
    if unit == "output_tokens":
        return 0, 1
    return (1, 0) if unit == "requests" else (0, 0)


def bases_of(units: Sequence[Unit], hold: Reserved) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a hold takes of each counter: anyway, and for each output token."""
    if not units:
        return (), ()
    bases: list[int] = []
    eaches: list[int] = []
    last, base, each = None, 0, 0
    for unit in units:
        if unit is not last:  # mostly they are all of one unit
            base, each = base_of(unit, hold)
            last = unit
        bases.append(base)
        eaches.append(each)
    return tuple(bases), tuple(eaches)


def amount_of(unit: Unit, charge: Charge) -> int:
    """What a charge takes of a counter of this unit."""
    if unit == "tokens":
        return charge.input_tokens + charge.output_tokens
    if unit == "cost_usd":
        return charge.cost or 0
    if unit == "input_tokens":
        return charge.input_tokens
    if unit == "output_tokens":
        return charge.output_tokens
    return 1 if unit == "requests" else 0


def amounts_of(units: Sequence[Unit], charge: Charge) -> tuple[int, ...]:
    """What a charge takes of each counter."""
    return () if not units else tuple([amount_of(unit, charge) for unit in units])
