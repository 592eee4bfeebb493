"""Tools with which a model uses its run's memory. Whose memory that is, the run says and never the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shipworthy.app.tools import FunctionTool, tool
from shipworthy.domain.context import RunContext
from shipworthy.domain.memory import Level, Source
from shipworthy.domain.messages import MEMORY, MODEL, Text
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory
from shipworthy.engine.memory.records import id_of
from shipworthy.engine.memory.rendering import line_of
from shipworthy.engine.remembering import trust_of
from shipworthy.errors import ConfigurationError, InputError, NotDone

NAMES = ("remember", "recall", "forget")
LABEL = "memory"
"""Label of these tools; what they do is not remembered as a deed of the run."""
MOST = 20


def memory_tools(
    memory: Memory, *, only: Sequence[str] = NAMES, level: Level | None = None
) -> list[FunctionTool[..., Any]]:
    """The tools `remember`, `recall` and `forget` for an agent: `Agent(..., tools=memory_tools(memory))`.

    They work on the partition of the run that calls them, at the memory's level or at *level*. What a model remembers
    is untrusted, as its words are. Raises ConfigurationError.
    """
    if unknown := [name for name in only if name not in NAMES]:
        raise ConfigurationError(
            f"There is no memory tool {unknown[0]!r}.", fix=f"Use some of {', '.join(NAMES)}."
        )

    def partition(ctx: RunContext[object]) -> Scope:
        found = memory.partition(ctx.scope, level)
        if found is None:
            raise NotDone("This conversation has no user whose memory it could be.")
        return found

    @tool(effect="idempotent", labels=[LABEL])
    async def remember(ctx: RunContext[object], text: str) -> str:
        """Keep something for later conversations with this user: one self-contained sentence.

        Args:
            text: What to remember.
        """
        scope = partition(ctx)
        try:
            made = await memory.remember(
                scope,
                text,
                id=f"noted:{ctx.idempotency_key}",
                source=Source(ctx.run_id, user=ctx.scope.user),
                origin=MODEL,
                trust="untrusted",
            )
        except InputError as error:
            raise NotDone(str(error)) from None
        return f"Remembered as {made.id}."

    @tool(effect="read", labels=[LABEL])
    async def recall(ctx: RunContext[object], query: str, limit: int = 5) -> list[Text]:
        """Look something up in what is remembered of earlier conversations with this user.

        Args:
            query: What to look for, in words.
            limit: How many things at most.
        """
        found = await memory.recall(partition(ctx), query, limit=min(max(limit, 1), MOST))
        if not found:
            return [Text("Nothing is remembered of that.", origin=MEMORY)]
        return [
            Text(f"{line_of(each, with_id=id_of(each.item))}\n", origin=MEMORY, trust=trust_of(each))
            for each in found
        ]

    @tool(effect="idempotent", labels=[LABEL])
    async def forget(ctx: RunContext[object], id: str) -> str:
        """Forget one remembered thing for good, as the user asked.

        Args:
            id: Its id, as `recall` gives it.
        """
        gone = await memory.forget(partition(ctx), ids=[id])
        return "Forgotten." if gone else f"Nothing is remembered under {id!r}."

    made: dict[str, FunctionTool[..., Any]] = {"remember": remember, "recall": recall, "forget": forget}
    return [made[name] for name in dict.fromkeys(only)]
