"""What makes vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

Purpose = Literal["document", "query"]


class Embedder(Protocol):
    """Vectors whose nearness is the nearness of what texts mean.

    `name` says which vectors these are (provider, model, dimensions): a store keeps those of one name. `limit`: how
    many texts one call takes at most.
    """

    @property
    def name(self) -> str: ...

    @property
    def limit(self) -> int: ...

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Sequence[Sequence[float]]:
        """A vector for each text, all of the same length; never on the event loop if it computes. Raises
        EmbedderError."""
        ...

    async def close(self) -> None:
        """Give up connections."""
        ...
