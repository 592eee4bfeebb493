"""The journal's format: events and bodies as JSON, and back. Format 1 is documented in docs/reference/journal.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from shipworthy.domain.events import FORMAT, AnyEvent, RunStarted
from shipworthy.domain.messages import AnyPart, Message
from shipworthy.errors import JournalDamaged, UnknownEvent

_encoder = msgspec.json.Encoder()

KNOWN_KINDS = frozenset(str(t.__struct_config__.tag) for t in AnyEvent.__args__)


encode_events: Callable[[list[AnyEvent]], bytes] = _encoder.encode
"""A batch's events as one JSON array."""


def decode_events(data: bytes | str) -> list[AnyEvent]:
    """The events of a batch. Raises UnknownEvent for a newer release's kinds, JournalDamaged for anything else."""
    from shipworthy.rules import decoders

    try:
        events = decoders.EVENTS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _reason(data, error) from None
    for event in events:
        if type(event) is RunStarted and event.format > FORMAT:
            raise UnknownEvent(
                f"Run {event.run_id!r} is written in journal format {event.format}; this release reads {FORMAT}."
            )
    return events


def encode_event(event: AnyEvent) -> bytes:
    """One event as a JSON object."""
    return _encoder.encode(event)


def encode_part(part: AnyPart) -> bytes:
    """A part as the body that is stored for it."""
    return _encoder.encode(part)


def encode_parts(parts: Sequence[AnyPart]) -> bytes:
    """A whole result as the body that is stored for it: a JSON array of its parts."""
    return _encoder.encode(parts)


def decode_part(data: bytes) -> AnyPart:
    """A part from its stored body. Raises JournalDamaged."""
    from shipworthy.rules import decoders

    try:
        return decoders.PART.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JournalDamaged(f"A stored body cannot be decoded: {error}.") from None


def encode_messages(messages: tuple[Message, ...]) -> bytes:
    """A conversation as one body."""
    return _encoder.encode(messages)


def decode_messages(data: bytes) -> tuple[Message, ...]:
    """A conversation from its body. Raises JournalDamaged."""
    from shipworthy.rules import decoders

    try:
        return decoders.MESSAGES.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JournalDamaged(f"A stored conversation cannot be decoded: {error}.") from None


def _reason(data: bytes | str, error: Exception) -> UnknownEvent | JournalDamaged:
    from shipworthy.rules import decoders

    try:
        kinds = {str(e.get("kind")) for e in decoders.PLAIN.decode(data)}
    except (msgspec.DecodeError, UnicodeDecodeError):
        kinds = set()
    if unknown := sorted(kinds - KNOWN_KINDS):
        return UnknownEvent(
            f"The journal has events of kind {', '.join(unknown)}, which this release does not know."
        )
    return JournalDamaged(f"The journal cannot be decoded: {error}.")
