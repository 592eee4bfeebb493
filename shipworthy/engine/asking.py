"""What a budget says for a sitting, and whether a run can be held to it."""

from __future__ import annotations

import asyncio

from shipworthy.domain.budgets import Limit, RateTerm, Terms
from shipworthy.domain.model import ModelSettings
from shipworthy.domain.scope import Scope
from shipworthy.engine.blueprint import UNNAMED
from shipworthy.errors import ConfigurationError
from shipworthy.ports.budget import Budget
from shipworthy.rules.budgets import beyond_bounds

PATIENCE = 30.0
"""Seconds that a budget may take to say what holds, where the run has no timeout."""

_UNBOUND = ("requests", "tool_calls")
"""Units of which a call takes the same whatever its settings are."""


async def asked(budget: Budget, scope: Scope, timeout: float | None) -> Terms:
    """What holds for *scope*. A function that never answers holds no run up for longer than *timeout* seconds, or
    PATIENCE. Raises ConfigurationError."""
    if not getattr(budget, "has_plans", True):
        return await budget.terms(scope)
    patience = PATIENCE if timeout is None else timeout
    limit = asyncio.timeout(patience)
    try:
        async with limit:
            return await budget.terms(scope)
    except TimeoutError:
        if not limit.expired():
            raise
        raise ConfigurationError(
            f"The budget's function of the scope gave no answer within {patience:g} seconds.",
            fix="Have it answer sooner (keep what it looks up, bound its own requests), or raise the run's timeout=; "
            "nothing runs without its answer.",
        ) from None


def check_settings(terms: Terms, settings: ModelSettings) -> None:
    """Raises ConfigurationError where a run with *settings* could not be held to *terms*."""
    if settings.extra and any([term.unit not in _UNBOUND for term in _all(terms)]):
        field = beyond_bounds(settings.extra)
        if field is not None:
            raise ConfigurationError(
                f"extra= has {field!r}, which could make a call dearer than the budget reserves for it.",
                fix="Leave it out. ModelSettings(max_tokens=) bounds an answer; the model, its tools and its prompt "
                "are the agent's own.",
            )


def _all(terms: Terms) -> list[Limit | RateTerm]:
    return [*terms.limits, *terms.rates]


def check_name(agent: str, terms: Terms) -> None:
    """Raises ConfigurationError for limits of each agent where *agent* has no name: all those would share them."""
    if agent == UNNAMED:
        for term in _all(terms):
            if term.level == "agent":
                raise ConfigurationError(
                    f"{term.name} is a limit of each agent, and all that have no name are one to it.",
                    fix='Give the agent a name of its own: Agent(..., name="greeter").',
                )
