"""Asking code that may object. It has so many seconds; whatever it raises, or gives that is no answer, is a no."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace

from shipworthy.domain.policy import Action, Decision, Replace
from shipworthy.domain.scope import Scope
from shipworthy.ports.policy import Policy
from shipworthy.rules.policies.check import sound
from shipworthy.rules.text import described

log = logging.getLogger("shipworthy")


async def decided(ask: Callable[[], Any], patience: float, name: str) -> Decision | Replace | None:
    """What *ask* gives: a sound Decision, which has a rule, a Replace, or None."""
    try:
        answer = await answered(ask, patience)
    except TimeoutError:
        return _no(name, f"it gave no answer within {patience:g} seconds")
    except Exception as error:
        return _no(name, f"it raised {described(error)}")
    if answer is None or type(answer) is Replace:
        return answer
    if (wrong := sound(answer)) is not None:
        return _no(name, wrong)
    made: Decision = answer
    return made if made.rule else replace(made, rule=name)


def decided_at_once(policy: Policy, scope: Scope, action: Action, name: str) -> Decision | Awaitable[Any]:
    """The same of a policy that may be called here, without the cost of waiting; what has to be waited for is handed
    on."""
    try:
        answer: Any = policy.decide(scope, action)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _no(name, f"it raised {described(error)}")
    if (wrong := sound(answer)) is not None:
        return answer if inspect.isawaitable(answer) else _no(name, wrong)
    made: Decision = answer
    return made if made.rule else replace(made, rule=name)


async def answered(ask: Callable[[], Any], patience: float) -> Any:
    """What *ask* gives in time, which may be awaitable. Raises what it raises, but no cancellation that is not the
    run's own: something that cancels itself has given no answer. Whatever it makes of the run's, that is raised."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    limit = asyncio.timeout(patience)
    try:
        answer = ask()
        if inspect.isawaitable(answer):
            async with limit:
                answer = await answer
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        if isinstance(error, asyncio.CancelledError):
            raise RuntimeError("It cancelled itself.") from error
        if isinstance(error, Exception):
            raise
        raise RuntimeError(f"It raised {type(error).__name__}.") from error
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError  # it was kept from the run
    if limit.expired():
        raise TimeoutError
    return answer


def _no(name: str, why: str) -> Decision:
    log.warning("%s did not decide, so the call is denied: %s", name, why)
    return Decision.deny_(
        f"{name} did not decide: {why}", rule=f"{name}:error", tell="it could not be decided."
    )
