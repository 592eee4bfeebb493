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

    @property
    def reported(self) -> bool:
        return self.input_tokens is not None or self.output_tokens is not None


class TotalUsage(msgspec.Struct, gc=False, omit_defaults=True):
    """The sum over a run's attempts. `unreported` counts attempts whose provider told nothing: the sums leave them out."""

    requests: int = 0
    unreported: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None

    def add(self, usage: Usage) -> None:
        """Count one attempt."""
        self.requests += 1
        if not usage.reported:
            self.unreported += 1
        self.input_tokens = _sum(self.input_tokens, usage.input_tokens)
        self.output_tokens = _sum(self.output_tokens, usage.output_tokens)
        self.cache_read_tokens = _sum(self.cache_read_tokens, usage.cache_read_tokens)
        self.cache_write_tokens = _sum(self.cache_write_tokens, usage.cache_write_tokens)
        self.reasoning_tokens = _sum(self.reasoning_tokens, usage.reasoning_tokens)


def _sum(a: int | None, b: int | None) -> int | None:
    if b is None:
        return a
    return b if a is None else a + b
