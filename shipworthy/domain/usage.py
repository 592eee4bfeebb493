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
