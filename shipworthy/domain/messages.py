"""Messages and their parts. Every part says where it came from (`origin`) and whether it may be obeyed (`trust`).

Origins: "developer", "user", "model", "tool:<name>", "memory", "agent:<name>", "runtime".
"""

from __future__ import annotations

from typing import Literal

import msgspec

Trust = Literal["trusted", "untrusted"]
Role = Literal["user", "assistant", "tool"]

DEVELOPER, USER, MODEL, MEMORY, RUNTIME = "developer", "user", "model", "memory", "runtime"


class Part(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="part"):
    """What all parts have in common."""


class Text(Part, frozen=True, gc=False, tag="text"):
    """Plain text."""

    text: str
    origin: str = USER
    trust: Trust = "trusted"


class Image(Part, frozen=True, gc=False, kw_only=True, tag="image"):
    """A picture: its bytes, or a URL that the provider fetches. Exactly one of `data` and `url`."""

    data: bytes | None = None
    url: str | None = None
    media_type: str = "image/png"
    origin: str = USER
    trust: Trust = "trusted"


class File(Part, frozen=True, gc=False, kw_only=True, tag="file"):
    """A document, such as a PDF."""

    data: bytes
    name: str
    media_type: str = "application/pdf"
    origin: str = USER
    trust: Trust = "trusted"


class Thinking(Part, frozen=True, gc=False, tag="thinking"):
    """A model's reasoning. `signature` and `redacted` are the provider's, returned to it as they came;
    `provider` names whose they are, since no other provider accepts them."""

    text: str
    signature: str | None = None
    redacted: str | None = None
    provider: str | None = None
    origin: str = MODEL
    trust: Trust = "untrusted"


class Stored(Part, frozen=True, gc=False, kw_only=True, tag="stored"):
    """Stands for a part, or a text, whose body lies in the store under the SHA-256 of its bytes (hex)."""

    digest: str
    size: int
    origin: str = USER
    trust: Trust = "trusted"


class ToolCall(Part, frozen=True, gc=False, tag="tool_call"):
    """A call that a model asks for. `arguments` is the JSON text as the model wrote it, or a dict in scripts.

    `call_id` is the framework's, unique over a conversation; providers' own ids are not relied upon.
    """

    name: str
    arguments: str | dict[str, object] = "{}"
    call_id: str = ""
    stored: Stored | None = None
    origin: str = MODEL
    trust: Trust = "untrusted"

    @property
    def raw_arguments(self) -> str:
        """The arguments as JSON text."""
        if isinstance(self.arguments, str):
            return self.arguments
        return msgspec.json.encode(self.arguments).decode()


class ToolResult(Part, frozen=True, gc=False, kw_only=True, tag="tool_result"):
    """What the model is told of a call."""

    call_id: str
    name: str
    content: tuple[Text | Image | File | Stored, ...]
    is_error: bool = False
    origin: str = RUNTIME
    trust: Trust = "untrusted"


UserPart = Text | Image | File
ContentPart = Text | Image | File | Stored
AnyPart = Text | Image | File | Thinking | Stored | ToolCall | ToolResult


class Message(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One message of a conversation."""

    role: Role
    parts: tuple[AnyPart, ...]

    @property
    def text(self) -> str:
        """The message's texts, joined."""
        return "".join([p.text for p in self.parts if type(p) is Text])
