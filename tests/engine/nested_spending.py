"""What the laws of nested budgets need: models that ask other agents, and what all runs together were charged."""

from __future__ import annotations

from typing import Any

from shipworthy import ToolCall
from shipworthy.domain.journal import RunFilter
from shipworthy.domain.messages import Text
from shipworthy.domain.model import Answer
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Charge, Usage
from tests.engine.spending import Provider, charges, requests_of, summed


class Asking(Provider):
    """Calls the tools of each turn of its script, agents among them, with something to do."""

    def answer(self, request: Any, turn: Any = None) -> Answer:
        if turn is None or request.purpose == "wrap_up":
            return super().answer(request)
        names = turn if isinstance(turn, list) else [turn]
        parts = tuple([ToolCall(name, '{"input": "Do it."}') for name in names])
        usage = Usage(input_tokens=self.input, output_tokens=self.output)
        return Answer(parts=parts, usage=usage, finish_reason="tool_calls")


async def journals(runtime: Any, root: str = "r", tenant: str = "acme") -> dict[str, list[Any]]:
    """The events of a run and of those that are nested in it."""
    found = await runtime.store.list(Scope(tenant), RunFilter(limit=1000, nested=True))
    ids = [run.run_id for run in found if root in (run.run_id, run.root)]
    return {run_id: await runtime.store.read(Scope(tenant), run_id) for run_id in ids}


async def nested(runtime: Any, root: str = "r") -> list[list[Any]]:
    """The events of each run that is nested in a run."""
    return [events for run_id, events in (await journals(runtime, root)).items() if run_id != root]


async def of_all(runtime: Any, kind: str) -> list[Any]:
    """The events of a kind, of a run and of those that are nested in it."""
    every = [event for events in (await journals(runtime)).values() for event in events]
    return [event for event in every if type(event).__name__ == kind]


async def spent_by(runtime: Any, root: str = "r") -> tuple[int, Charge]:
    """The attempts of a run and of those that are nested in it, and what all of them are charged."""
    every = [event for events in (await journals(runtime, root)).values() for event in events]
    return requests_of(every), summed(charges(every))


def said(result: Any) -> str:
    """All that a run's model was told of its calls."""
    results = [part for message in result.new_messages if message.role == "tool" for part in message.parts]
    return "\n".join([c.text for part in results for c in part.content if isinstance(c, Text)])
