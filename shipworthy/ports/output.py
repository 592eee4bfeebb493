"""What a run's output must be, and how the model is asked for it."""

from __future__ import annotations

from typing import Any, Protocol

from shipworthy.domain.context import RunContext
from shipworthy.domain.model import OutputSpec, ToolSpec


class Output(Protocol):
    """One of three ways to ask: tools whose call is the output, a native schema, or words in the prompt.

    Plain text has none of the three.
    """

    @property
    def tools(self) -> tuple[ToolSpec, ...]: ...

    @property
    def native(self) -> OutputSpec | None: ...

    @property
    def words(self) -> str:
        """What is added to the instructions; empty for most."""
        ...

    def parse(self, text: str, tool: str | None) -> Any:
        """A value from an answer's text, or from the arguments of an output tool's call. Raises InvalidOutput."""
        ...

    async def check(self, ctx: RunContext[Any], value: Any) -> Any:
        """Run the developer's validators; what they return is the output. Raises InvalidOutput, ModelRetry."""
        ...

    def encode(self, value: Any) -> str:
        """The value as JSON text, for the journal."""
        ...

    def decode(self, text: str) -> Any:
        """The value back from the journal's JSON text."""
        ...
