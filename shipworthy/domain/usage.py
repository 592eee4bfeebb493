"""What a model call used. Unknown is None, never 0."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Tokens, as the provider counted them; a field that it did not report is None.

    `input_tokens` includes what was read from or written to a cache; `output_tokens` includes reasoning.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class TotalUsage(msgspec.Struct, gc=False, omit_defaults=True):
    """The sum over a run's attempts. `unreported` counts those whose provider told nothing: the sums leave them out."""

    requests: int = 0
    unreported: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class Tier(msgspec.Struct, frozen=True, gc=False):
    """Prices of a whole request whose input has more than `above` tokens."""

    above: int
    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None


class Price(msgspec.Struct, frozen=True, gc=False):
    """What a model costs, in billionths of a US dollar per million tokens; `request` per request.

    What is read from or written to a cache costs as much as other input where no price of its own is given. Reasoning
    is output. `tiers`: for long inputs, in ascending order.
    """

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    request: int = 0
    tiers: tuple[Tier, ...] = ()


class Reserved(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What an attempt may be charged at most, under this id in the ledger: for `input_tokens` and at most
    `output_tokens`, `base` and for each output token `each` (billionths of a US dollar; None where no price is
    known)."""

    id: str
    input_tokens: int
    output_tokens: int
    base: int | None = None
    each: int = 0


class Charge(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What an attempt is charged, or reserves: tokens as far as they are known, and money in billionths of a US dollar,
    None where no price is known."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: int | None = None


class Tally(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How often calls were allowed, and gave results, by tool: in one run and those that are nested in it."""

    run: str
    allowed: dict[str, int] = {}
    returned: dict[str, int] = {}


class Spent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What runs used, and what they are charged: None where that is not known of a part of it. `tallies`: what each of
    them was allowed, those left out that called nothing."""

    usage: TotalUsage
    charged: Charge | None = None
    tallies: tuple[Tally, ...] = ()
