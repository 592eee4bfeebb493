"""Prices: what models cost."""

from __future__ import annotations

from typing import Protocol

from shipworthy.domain.usage import Price


class Prices(Protocol):
    """Somebody's list of prices. It is loaded once, and then asked before every attempt."""

    async def load(self) -> None:
        """Get ready to answer. May take seconds, none of them on the event loop; again, it costs nothing."""
        ...

    def price(self, model: str) -> Price | None:
        """What *model* ('provider:model', as `Model.name` gives it) costs now; None for one that is not known, which is
        not the same as free. Quick: it neither waits nor reads files."""
        ...
