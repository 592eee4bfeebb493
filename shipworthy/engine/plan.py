"""What a driver needs of an agent, and of whoever wants a run to go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from shipworthy.domain.effects import Settlement
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import Blueprint, Limits
from shipworthy.rules.calls import Answer

if TYPE_CHECKING:
    from shipworthy.engine.live import LiveRun

MakeDeps = Callable[[Scope, Any], Awaitable[Any]]
NOTHING: Mapping[str, Settlement] = {}


class Plan(msgspec.Struct, frozen=True):
    """An agent as a runtime knows it: its blueprint, and how a run's dependencies are made from its scope."""

    blueprint: Blueprint
    make_deps: MakeDeps

    def resume(
        self,
        scope: Scope,
        run_id: str,
        settlements: Mapping[str, Settlement] = NOTHING,
        deps: Any = None,
        at: int | None = None,
    ) -> Resume:
        """That one of the agent's runs is to go on."""
        return Resume(plan=self, scope=scope, run_id=run_id, deps=deps, settlements=settlements, at=at)


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller brings to a run that goes on. `at`: the pause that it may go on from, and no other one. `parent`:
    the run that a nested one belongs to, which alone may have it go on, with `answers` for its calls."""

    plan: Plan
    scope: Scope
    run_id: str
    deps: Any = None
    settlements: Mapping[str, Settlement] = NOTHING
    at: int | None = None
    parent: LiveRun | None = None
    answers: tuple[Answer, ...] = ()

    @property
    def limits(self) -> Limits:
        """Those of the code that is live; a run keeps the narrower ones."""
        return self.plan.blueprint.limits


async def no_deps(scope: Scope, given: object) -> None:
    """Those of a run in which no code runs that could use any."""
