"""Whose spans they are: names, keys and the attributes that do not change, made once for all spans of a sitting."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from shipworthy.domain.events import RunStarted
from shipworthy.domain.messages import ToolCall
from shipworthy.domain.scope import Scope
from shipworthy.domain.usage import Charge, Usage
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.records import Attributes, SpanOpened, Value

BILLION = 1_000_000_000


def run_key(started: RunStarted) -> str:
    """What the keys of all spans of a run begin with: from what is pinned when it begins. An id of a run may be there
    again in another store, or with another agent; their beginnings, and the spans that were begun for them, differ."""
    of = (started.tenant, started.run_id, started.agent, started.at, started.trace)
    return hashlib.sha256(msgspec.json.encode(of)).hexdigest()[:24]


class Known(msgspec.Struct):
    """A call of the present answer. `doubted`: it was counted as one in doubt."""

    call: ToolCall
    effect: str = ""
    doubted: bool = False


class Open(msgspec.Struct):
    """A span that is not closed yet. `told`: a record says that it was opened. `metered`: what it is charged is still
    to come, whatever becomes of it."""

    opened: SpanOpened
    told: bool
    attempt: int = 1
    metered: bool = False
    model: str = ""
    purpose: str = ""

    @property
    def at(self) -> int:
        return self.opened.at


class Told:
    """Whose spans they are, and the attributes that do not change: made once, for all spans of a sitting."""

    def __init__(self, scope: Scope, run_id: str, agents: Sequence[str], model: str) -> None:
        self.key = ""
        self.run_id, self.scope = run_id, scope
        self.agent = agents[-1] if agents else ""
        self.model = model
        self.base: dict[str, Value] = {
            names.TENANT_ID: scope.tenant,
            names.RUN: run_id,
            names.AGENT: self.agent,
        }
        if scope.user is not None:
            self.base[names.USER_ID] = scope.user
        self._models: dict[str, tuple[str, Attributes]] = {}
        self._tools: dict[str, tuple[str, Attributes]] = {}

    def began(self, started: RunStarted) -> None:
        """What the run began with: before that, no span of it has a key."""
        self.key = self.key or run_key(started)

    def of_sitting(self, *, resumed: bool) -> tuple[str, dict[str, Value]]:
        """Name and attributes of the sitting's own span; those are the caller's."""
        provider, model = names.provider_and_model(self.model)
        attributes: dict[str, Value] = {
            **self.base,
            names.OPERATION: names.INVOKE_AGENT,
            names.PROVIDER: provider,
            names.REQUEST_MODEL: model,
            names.RESUMED: resumed,
        }
        if self.scope.user is not None:
            attributes[names.USER] = self.scope.user
        if self.scope.session is not None:
            attributes[names.CONVERSATION] = self.scope.session
        return f"{names.INVOKE_AGENT} {self.agent}" if self.agent else names.INVOKE_AGENT, attributes

    def of_model(self, name: str) -> tuple[str, Attributes]:
        """Name and attributes of an attempt on the wire."""
        if (known := self._models.get(name)) is None:
            provider, model = names.provider_and_model(name)
            known = self._models[name] = (
                f"{names.CHAT} {model}",
                {
                    **self.base,
                    names.OPERATION: names.CHAT,
                    names.PROVIDER: provider,
                    names.REQUEST_MODEL: model,
                },
            )
        return known

    def of_tool(self, name: str) -> tuple[str, Attributes]:
        """Name and attributes of an attempt of a tool."""
        if (known := self._tools.get(name)) is None:
            attributes = {
                **self.base,
                names.OPERATION: names.EXECUTE_TOOL,
                names.TOOL: name,
                names.TOOL_TYPE: "function",
            }
            known = self._tools[name] = (f"{names.EXECUTE_TOOL} {name}", attributes)
        return known

    def key_of_model(self, count: int) -> str:
        """The key of the run's attempt on the wire of this number, from 1."""
        return f"{self.key}-m{count}"

    def key_of(self, seq: int) -> str:
        """The key of the span that the event of this number begins."""
        return f"{self.key}-{seq}"


def of_usage(usage: Usage, charged: Charge | None, purpose: str) -> dict[str, Value]:
    """What an attempt was for and used, as far as it is known, and what it is charged."""
    found: dict[str, Value] = {names.PURPOSE: purpose}
    for attribute, value in (
        (names.INPUT_TOKENS, usage.input_tokens),
        (names.OUTPUT_TOKENS, usage.output_tokens),
        (names.CACHE_READ_TOKENS, usage.cache_read_tokens),
        (names.CACHE_WRITE_TOKENS, usage.cache_write_tokens),
        (names.REASONING_TOKENS, usage.reasoning_tokens),
    ):
        if value is not None:
            found[attribute] = value
    if charged is not None:
        found[names.CHARGED_INPUT], found[names.CHARGED_OUTPUT] = charged.input_tokens, charged.output_tokens
        if charged.cost is not None:
            found[names.COST] = charged.cost / BILLION
    return found
