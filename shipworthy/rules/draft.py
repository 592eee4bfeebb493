"""An answer while it arrives: its parts in the order in which the provider began them."""

from __future__ import annotations

from typing import Literal

from shipworthy.domain.messages import Text, Thinking, ToolCall
from shipworthy.errors import IncompleteAnswer

Kind = Literal["text", "thinking", "call"]


class Piece:
    """One part in the making. `chunks` are its text, or its arguments' JSON; `slot` counts calls from 0."""

    __slots__ = ("chunks", "ident", "kind", "name", "redacted", "signature", "slot")

    def __init__(self, kind: Kind, slot: int) -> None:
        self.kind = kind
        self.slot = slot
        self.name = ""
        self.ident: str | None = None
        self.chunks: list[str] = []
        self.signature: str | None = None
        self.redacted: str | None = None


class Draft:
    """The pieces of one answer."""

    __slots__ = ("calls", "pieces", "provider")

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.pieces: list[Piece] = []
        self.calls = 0

    def begin(self, kind: Kind) -> Piece:
        """A new part after those that are there."""
        piece = Piece(kind, self.calls)
        self.calls += kind == "call"
        self.pieces.append(piece)
        return piece

    def go_on(self, kind: Kind) -> Piece:
        """The last part if it is of this kind, else a new one."""
        pieces = self.pieces
        return pieces[-1] if pieces and pieces[-1].kind == kind else self.begin(kind)

    def parts(self) -> tuple[Text | Thinking | ToolCall, ...]:
        """The parts; the empty ones are left out. Raises IncompleteAnswer for a call without a name."""
        return tuple(part for piece in self.pieces if (part := _part(piece, self.provider)) is not None)


def _part(piece: Piece, provider: str) -> Text | Thinking | ToolCall | None:
    text = "".join(piece.chunks)
    if piece.kind == "text":
        return Text(text, origin="model", trust="untrusted") if text else None
    if piece.kind == "call":
        return call(piece.name, text)
    if not text and not piece.redacted:
        return None
    return Thinking(text, piece.signature, piece.redacted, provider)


def call(name: str, arguments: str) -> ToolCall:
    """A call as the model wrote it; the engine gives it its id and judges its JSON."""
    if not name:
        raise IncompleteAnswer("The answer has a tool call without a name.")
    return ToolCall(name, arguments or "{}")
