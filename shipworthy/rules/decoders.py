"""The decoders of the journal's format, in a module of their own: made at their first use, and by one thread.

Python imports a module once, and has other threads wait for it. msgspec (0.22) does not: where two threads make a
type's first decoder at the same time, one of them uses what the other has half made, and the process crashes.
"""

from __future__ import annotations

import msgspec

from shipworthy.domain.events import AnyEvent
from shipworthy.domain.messages import AnyPart, Message

EVENTS = msgspec.json.Decoder(list[AnyEvent])
PART: msgspec.json.Decoder[AnyPart] = msgspec.json.Decoder(AnyPart)
MESSAGES = msgspec.json.Decoder(tuple[Message, ...])
PLAIN = msgspec.json.Decoder(list[dict[str, object]])
