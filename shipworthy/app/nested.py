"""Agents as tools of other agents: `agent.as_tool()`, `handoff`, `parallel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shipworthy.app.approvals import Requires
from shipworthy.app.tools import FunctionTool, tool
from shipworthy.domain.context import RunContext
from shipworthy.domain.effects import Effect, Unknown, Verdict
from shipworthy.domain.messages import File, Image, Text
from shipworthy.domain.policy import ActionKind, Decision
from shipworthy.engine.blueprint import UNNAMED
from shipworthy.engine.delegating import Delegating, Member
from shipworthy.errors import ConfigurationError, InvalidArguments

if TYPE_CHECKING:
    from shipworthy.app.agent import Agent


class AgentTool(Delegating):
    """A tool that other agents carry out, each in a run of its own. Made by `agent.as_tool`, `handoff`, `parallel`."""

    kind: ActionKind = "agent"
    effect: Effect = "idempotent"
    source = "code"
    timeout = None
    retries = 0
    threaded = False
    verifies = False
    max_result = None

    def __init__(
        self,
        agents: Sequence[Agent[Any, Any]],
        form: FunctionTool[..., Any],
        *,
        grouped: bool = False,
        hands_over: bool = False,
    ) -> None:
        self.agents = tuple(agents)
        self.members = tuple([Member(agent.name, agent.nested, agent.identified) for agent in agents])
        self.grouped, self.hands_over = grouped, hands_over
        self.spec, self.labels, self.asks, self.time = form.spec, form.labels, form.asks, form.timeout
        self.origin = f"tool:{form.spec.name}"
        self._form = form

    def __repr__(self) -> str:
        return f"<tool {self.spec.name} (agents {', '.join([agent.name for agent in self.agents])})>"

    def parse(self, arguments: str) -> Any:
        """The arguments as an object with an attribute `input`. Raises InvalidArguments."""
        made = self._form.parse(arguments)
        if not made.input.strip():
            raise InvalidArguments("input is blank: say what the agent has to do.")
        return made

    def task_of(self, arguments: Any) -> str:
        task: str = arguments.input
        return task

    async def approval(self, ctx: RunContext[Any], arguments: Any) -> Decision:
        """Whether this call needs a person's approval. Raises what `requires_approval=` raises."""
        return await self._form.approval(ctx, arguments)

    async def invoke(
        self, ctx: RunContext[Any], arguments: Any, may_start: Callable[[], bool] | None = None
    ) -> tuple[Text | Image | File, ...]:
        """Not for agents: they are driven by the engine, in the run that calls them."""
        raise RuntimeError(f"The tool {self.spec.name!r} is carried out by agents, within a run.")

    def parts(self, value: Any) -> tuple[Text | Image | File, ...]:
        """A returned value as parts."""
        return self._form.parts(value)

    def still_running(self, ctx: RunContext[Any]) -> bool:
        """Never: nothing of it is in a thread."""
        return False

    async def verify(self, ctx: RunContext[Any], arguments: Any) -> Verdict:
        """Nothing to ask: the calls of the nested run are settled each by itself."""
        return Unknown()


def as_tool(
    agent: Agent[Any, Any],
    name: str | None,
    description: str | None,
    labels: Sequence[str],
    timeout: float | None,
    requires_approval: Requires,
    approvers: int,
) -> AgentTool:
    """Raises ConfigurationError."""
    _check([agent])
    words = (
        f"Give a task to the agent {agent.name}, and get its answer." if description is None else description
    )
    form = _form(name or agent.name, words, labels, timeout, requires_approval, approvers)
    return AgentTool([agent], form)


def handoff(
    agent: Agent[Any, Any],
    *,
    name: str | None = None,
    description: str | None = None,
    labels: Sequence[str] = (),
    timeout: float | None = None,
    requires_approval: Requires = False,
    approvers: int = 1,
) -> AgentTool:
    """A tool that hands the conversation over: the agent sees what was said so far, and its output is the run's, as far
    as it is a valid one. Otherwise the model that handed over is told why, and goes on.

    The options are those of `agent.as_tool`. Raises ConfigurationError.
    """
    _check([agent])
    words = f"Hand the conversation over to the agent {agent.name}." if description is None else description
    named = f"hand_off_to_{agent.name}" if name is None else name
    form = _form(named, words, labels, timeout, requires_approval, approvers)
    return AgentTool([agent], form, hands_over=True)


def parallel(
    *agents: Agent[Any, Any],
    name: str,
    description: str | None = None,
    labels: Sequence[str] = (),
    timeout: float | None = None,
    requires_approval: Requires = False,
    approvers: int = 1,
) -> AgentTool:
    """A tool that gives one task to several agents, side by side. The result is a JSON object: by agent its output, or
    `{"error": ...}`; where one of them waits for somebody, the others finish first.

    The options are those of `agent.as_tool`. Raises ConfigurationError.
    """
    _check(agents)
    names = [agent.name for agent in agents]
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(
            f"The group {name!r} has the agents {', '.join(names) or 'none'}.",
            fix="Give it one agent or more, each with a name= of its own.",
        )
    words = f"Give a task to the agents {', '.join(names)}, and get the answer of each."
    form = _form(
        name, words if description is None else description, labels, timeout, requires_approval, approvers
    )
    return AgentTool(agents, form, grouped=True)


def refuse_namesakes(name: str, tools: Sequence[Any]) -> None:
    """That no two agents that the agent *name* has as tools are called the same: what people approve of for one, and
    have remembered, is known by its name. Raises ConfigurationError."""
    known: dict[str, Any] = {}
    for each in tools:
        for agent in getattr(each, "agents", ()):
            if known.setdefault(agent.name, agent) is not agent:
                raise ConfigurationError(
                    f"The agent {name!r} has two agents named {agent.name!r} as tools: approvals, policies and "
                    "recovery know an agent by its name.",
                    fix="Give each a name= of its own, or pass the same Agent to both tools.",
                )


def _check(agents: Sequence[Any]) -> None:
    for agent in agents:
        if not hasattr(agent, "nested"):
            raise ConfigurationError(f"{agent!r} is not an agent.", fix="Pass an Agent.")
        if agent.name == UNNAMED:
            raise ConfigurationError(
                "An agent without a name cannot be a tool: approvals, policies and recovery know it by its name.",
                fix='Give it one: Agent(..., name="billing").',
            )


def _form(
    name: str,
    description: str,
    labels: Sequence[str],
    timeout: float | None,
    requires_approval: Requires,
    approvers: int,
) -> FunctionTool[..., Any]:
    """What a model is shown, and how its arguments are read. Raises InvalidTool."""

    async def agents(input: str) -> None:
        """What a call is made with."""

    return tool(
        agents,
        effect="idempotent",
        name=name,
        description=description,
        timeout=timeout,
        requires_approval=requires_approval,
        approvers=approvers,
        labels=labels,
    )
