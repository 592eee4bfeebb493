"""What the engine needs to know of an agent: frozen once the agent is built, shared by all its runs."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from shipworthy.domain.events import Fingerprint
from shipworthy.domain.model import ModelSettings, ToolSpec
from shipworthy.engine.governance import UNGOVERNED, Governance
from shipworthy.ports.audit import AuditLog
from shipworthy.ports.budget import Budget
from shipworthy.ports.model import Model
from shipworthy.ports.output import Output
from shipworthy.ports.readers import Reader
from shipworthy.ports.tools import Tool
from shipworthy.rules.text import clean

if TYPE_CHECKING:
    from shipworthy.engine.remembering import Remembering

UNNAMED = "agent"
"""The name of agents that were given none."""

Instruction = str | Callable[..., Any]


class Limits(msgspec.Struct, frozen=True, gc=False):
    """Bounds of a run. Times in seconds, sizes in characters.

    `tool_timeout` bounds tools that set none. `max_result`: how much of a result the model is shown.
    `wait_for_paused`: whether a session takes no message while a run of it is paused.
    """

    max_turns: int = 50
    output_retries: int = 2
    model_retries: int = 2
    timeout: float | None = None
    tool_timeout: float = 60.0
    max_result: int = 50_000
    wait_for_paused: bool = False


class Blueprint(msgspec.Struct, kw_only=True):
    """An agent, as its runs see it. `fixed`: its instructions, where no function of the context gives them. `memory`:
    what its runs recall from and are remembered in. `learns`: what is done with its output before a run ends.
    `audit`: what its runs are entered in; `readers`: who observes them, from the next sitting on."""

    name: str
    instructions: tuple[Instruction, ...]
    model: Model
    tools: Mapping[str, Tool]
    output: Output
    settings: ModelSettings
    limits: Limits
    specs: tuple[ToolSpec, ...]
    output_tools: frozenset[str]
    fingerprint: Fingerprint
    fixed: str | None
    budget: Budget | None = None
    governance: Governance = UNGOVERNED
    memory: Remembering | None = None
    learns: Callable[[Any, Any], Awaitable[None]] | None = None
    audit: AuditLog | None = None
    readers: list[Reader] = msgspec.field(default_factory=list)

    @classmethod
    def build(
        cls,
        *,
        name: str,
        instructions: tuple[Instruction, ...],
        model: Model,
        tools: Mapping[str, Tool],
        output: Output,
        settings: ModelSettings,
        limits: Limits,
        budget: Budget | None = None,
        governance: Governance = UNGOVERNED,
        memory: Remembering | None = None,
        learns: Callable[[Any, Any], Awaitable[None]] | None = None,
        audit: AuditLog | None = None,
        readers: list[Reader] | None = None,
    ) -> Blueprint:
        """Everything that is the same for every run, computed once."""
        texts = [i for i in instructions if isinstance(i, str)]
        return cls(
            name=name,
            instructions=instructions,
            model=model,
            tools=tools,
            output=output,
            settings=settings,
            limits=limits,
            specs=(*[t.spec for t in tools.values()], *output.tools),
            output_tools=frozenset([t.name for t in output.tools]),
            fingerprint=Fingerprint(
                instructions=_digest([i if isinstance(i, str) else _name(i) for i in instructions]),
                model=model.name,
                tools=_digest([[t.spec, t.effect] for t in tools.values()]),
                output=_digest([output.tools, output.native, output.words]),
                permissions=_digest(governance.version) if governance.judges else "",
            ),
            fixed=joined([*texts, output.words]) if len(texts) == len(instructions) else None,
            budget=budget,
            governance=governance,
            memory=memory,
            learns=learns,
            audit=audit,
            readers=[] if readers is None else readers,
        )


def joined(texts: Sequence[str]) -> str:
    """Instructions as one text."""
    return clean("\n\n".join([text for text in texts if text]))


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:12]


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
