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
from shipworthy.engine.governance import name_of
from shipworthy.ports.policy import Policy
from shipworthy.rules.policies.check import sound
from shipworthy.rules.text import described

log = logging.getLogger("shipworthy")

UNDECIDED = "it could not be decided."
"""What the model is told where something that may object has failed."""
_asked: set[asyncio.Task[Any]] = set()
_LAST = 0.1
"""Seconds for which something whose time is over is waited for, so that it can put away what it has in its hands."""


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


def decided_at_once(policy: Policy, scope: Scope, action: Action) -> Decision | Awaitable[Any]:
    """The same of a policy that may be called here, without the cost of waiting; what has to be waited for is handed
    on."""
    try:
        answer: Any = policy.decide(scope, action)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _no(name_of(policy), f"it raised {described(error)}")
    if (wrong := sound(answer)) is not None:
        return answer if inspect.isawaitable(answer) else _no(name_of(policy), wrong)
    made: Decision = answer
    return made if made.rule else replace(made, rule=name_of(policy))


async def answered(ask: Callable[[], Any], patience: float) -> Any:
    """What *ask* gives in time, which may be awaitable. Raises what it raises, but no exit and no cancellation that is
    not the run's own: something that cancels itself has given no answer."""
    try:
        answer = ask()
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise RuntimeError(f"It raised {type(error).__name__}.") from error
    return await _awaited(answer, patience) if inspect.isawaitable(answer) else answer


async def _awaited(answer: Awaitable[Any], patience: float) -> Any:
    """In a task of its own, so that whatever it does with a cancellation, the run's own is the run's, and the time is
    over when it is over."""
    task = asyncio.create_task(_without_exits(answer))
    _asked.add(task)
    task.add_done_callback(lambda done: _forget(done, answer))
    try:
        await asyncio.wait((task,), timeout=patience)
    finally:
        if not task.done():
            task.cancel()
    if not task.done():
        await asyncio.wait((task,), timeout=_LAST)
        raise TimeoutError
    return task.result()


async def _without_exits(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except (Exception, KeyboardInterrupt):
        raise
    except asyncio.CancelledError as error:
        raise RuntimeError("It cancelled itself.") from error
    except BaseException as error:
        raise RuntimeError(f"It raised {type(error).__name__}.") from error


def _forget(task: asyncio.Task[Any], answer: Awaitable[Any]) -> None:
    _asked.discard(task)
    if inspect.iscoroutine(answer):
        answer.close()  # it has not begun where the loop ended first
    if not task.cancelled():
        task.exception()  # whoever waited has been told


def _no(name: str, why: str) -> Decision:
    log.warning("%s did not decide, so the call is denied: %s", name, why)
    return Decision.deny_(f"{name} did not decide: {why}", rule=f"{name}:error", tell=UNDECIDED)
