"""What repeating a tool means, and how a call in doubt is settled."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Effect = Literal["read", "idempotent", "once"]


class Happened(msgspec.Struct, frozen=True, gc=False, tag="happened"):
    """The effect happened; `result` is what the tool would have returned."""

    result: Any = None


class DidNotHappen(msgspec.Struct, frozen=True, gc=False, tag="did_not_happen"):
    """The effect did not happen and no longer can; the call is made."""


class Unknown(msgspec.Struct, frozen=True, gc=False, tag="unknown"):
    """The world does not know; a person has to."""


Settlement = Happened | DidNotHappen
Verdict = Happened | DidNotHappen | Unknown
