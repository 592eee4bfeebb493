"""A model: one method, streaming first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from shipworthy.domain.model import Answer, Delta, ModelRequest


class Paced(Protocol):
    """A model whose provider says when another request makes sense. Rate limits take it into account."""

    @property
    def paused_for(self) -> float:
        """Seconds; 0 for now."""
        ...


class Model(Protocol):
    """One attempt on the wire per call of `stream`; the adapter retries nothing by itself."""

    @property
    def name(self) -> str:
        """'provider:model'."""
        ...

    def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Answer]:
        """Deltas, then exactly one `Answer`, only when the provider said that the message is complete.

        Raises ModelError: IncompleteAnswer for a stream that was cut, RateLimited, ModelUnavailable, RequestRejected.
        """
        ...

    async def close(self) -> None:
        """Give up connections."""
        ...
