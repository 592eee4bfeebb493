"""Anchors: places outside an audit log that keep its signed checkpoints, so that nobody who gets hold of the log can
take them back. Called on the notary's own thread, so that they may block up to their timeout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol


class Anchor(Protocol):
    """A place that keeps checkpoints. Laws that every adapter keeps are in `shipworthy.testing.contracts.anchors`."""

    @property
    def where(self) -> str:
        """Its address, without credentials, for messages."""
        ...

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        """Keep this checkpoint: durable when it returns. One with the same root of as many entries does nothing. Raises
        AnchorRefused for one of fewer entries than are kept of the log, unless it is kept itself, and for one with
        another root of as many; AnchorError where it could not be kept, or is no checkpoint of these."""
        ...

    def newest(self, name: str) -> Sequence[bytes]:
        """Of each log that is known under this name, the checkpoint of the most entries. Raises AnchorError."""
        ...

    def all(self, name: str) -> Iterator[bytes]:
        """Every checkpoint that is kept under this name, those of one log in the order of their entries. Raises
        AnchorError, and never ends early without it."""
        ...

    def close(self) -> None:
        """Let go of connections; the next call makes them again."""
        ...
