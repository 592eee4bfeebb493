"""What a run does next: a rule table, read from top to bottom, first match wins."""

from __future__ import annotations

import msgspec

from shipworthy.domain.events import BudgetReached, EndStatus, ParkReason
from shipworthy.domain.ledger import NANO
from shipworthy.domain.model import Purpose
from shipworthy.rules.calls import Call
from shipworthy.rules.state import RunState


class AskModel(msgspec.Struct, frozen=True, gc=False):
    """Make one attempt on the wire, `delay` seconds from now."""

    purpose: Purpose = "turn"
    delay: float = 0.0


class Recall(msgspec.Struct, frozen=True, gc=False):
    """Ask memory what the run should know."""


class Judge(msgspec.Struct, frozen=True, gc=False):
    """Say of each call whether it may run."""

    calls: tuple[Call, ...]


class Execute(msgspec.Struct, frozen=True, gc=False):
    """Run these calls side by side: reads and idempotent ones together, a `once` call alone."""

    calls: tuple[Call, ...]


class Settle(msgspec.Struct, frozen=True, gc=False):
    """Find out whether these effects happened, or park."""

    calls: tuple[Call, ...]


class Park(msgspec.Struct, frozen=True, gc=False):
    """Wait for a person without asking the world first; at most until `wake_at`."""

    reason: ParkReason = "in_doubt"
    detail: str = ""
    wake_at: int | None = None


class Deliver(msgspec.Struct, frozen=True, gc=False):
    """Make the answer's text the output, if it is a valid one."""


class End(msgspec.Struct, frozen=True, gc=False):
    """Record the end."""

    status: EndStatus
    stop_reason: str
    error: str | None = None


class Finished(msgspec.Struct, frozen=True, gc=False):
    """Nothing is left to do in this sitting."""


Step = AskModel | Recall | Judge | Execute | Settle | Park | Deliver | End | Finished

MINUTE, _MOST_DOUBLINGS = 60_000, 10
_RECALL = Recall()
_FINISHED, _DELIVER, _TURN, _WRAP_UP, _PARK = Finished(), Deliver(), AskModel(), AskModel("wrap_up"), Park()


def decide(run: RunState) -> Step:  # noqa: C901 - the table
    """The next step of *run*."""
    if run.ended is not None or run.parked:
        return _FINISHED
    calls = _by_status(run) if run.calls else _NO_CALLS
    if calls.in_doubt:
        return _PARK if run.stopped_here else Settle(tuple(calls.in_doubt))
    if calls.doubted and (run.stopping is not None or _is_over_limit(run)):
        return _wait_for_settlement(calls)
    if run.stopping is not None:
        return End(
            "cancelled" if run.stopping == "cancelled" else "stopped", run.stopping, run.stop_detail or None
        )
    if run.wrapping_up and run.answer is not None:
        return _DELIVER
    if run.limit is not None and _is_over_limit(run):
        return End("stopped", why_stopped(run), budget_words(run.limit))
    if run.started.remembers and not run.recalled:
        return _RECALL
    if calls.unjudged:
        return Judge(tuple(calls.unjudged))
    if calls.repeatable:
        return Execute(tuple(calls.repeatable))
    if calls.once:
        return Execute((calls.once[0],))
    if calls.attempted:
        return _PARK
    if calls.asked or calls.waiting:
        return _wait(calls)
    if calls.doubted:
        return _wait_for_settlement(calls)
    if run.failure is not None and run.limit is not None and not run.wrapping_up:
        return AskModel("wrap_up", run.failure.retry_after or 0.0)
    if run.failure is not None and not _worth_retrying(run):
        return _failed(run)
    if run.failure is not None:
        return AskModel("wrap_up" if run.wrapping_up else "turn", run.failure.retry_after or 0.0)
    if run.answer is not None or run.handed_over is not None:
        return _DELIVER
    if run.rejections > run.output_retries:
        return End("failed", "invalid_output", run.rejection)
    if run.turns >= run.max_turns or run.limit is not None:
        return _WRAP_UP
    return _TURN


def why_stopped(run: RunState) -> str:
    """The stop reason of a run that is given no further turns."""
    return "max_turns" if run.limit is None else f"{run.limit.of}:{run.limit.limit}"


def budget_words(limit: BudgetReached) -> str:
    """What the run's caller is told."""
    cap, spent, held, needed = (
        shown_amount(limit.unit, n) for n in (limit.cap, limit.spent, limit.held, limit.needed)
    )
    if limit.of == "rate_limit" and not limit.cap:
        return "The provider asked for a pause in which it takes no further request."
    if limit.of == "rate_limit":
        return f"The rate limit {limit.limit} ({cap}) has no room now for a call that may take {needed}."
    if limit.cut_at is not None:
        return (
            f"The answer was cut at {limit.cut_at:,} output tokens: {limit.limit} ({cap}) afforded no more."
        )
    if limit.needed > limit.cap and limit.unit == "tool_calls":
        return f"One answer asks for {needed}, more than all of {limit.limit} ({cap}): raise the limit."
    if limit.needed > limit.cap:
        return (
            f"One call may take {needed}, more than all of {limit.limit} ({cap}): raise the limit, or lower max_tokens "
            "and the prompt."
        )
    return f"{limit.limit} is {cap}; {spent} are spent and {held} held by others, and the next call may take {needed}."


def shown_amount(unit: str, amount: int) -> str:
    """An amount with its unit."""
    if unit == "cost_usd":
        return f"${amount / NANO:.9f}".rstrip("0").rstrip(".") if amount else "$0"
    return f"{amount:,} {unit.replace('_', ' ')}"


class _Calls(msgspec.Struct, gc=False):
    """The open calls of an answer: reads and idempotent ones run together and first, `once` calls one by one, in the
    model's order, none before one that people are asked about. An attempt that gave nothing, not even an error, waits
    for the next sitting."""

    in_doubt: list[Call]
    unjudged: list[Call]
    repeatable: list[Call]
    once: list[Call]
    attempted: list[Call]
    asked: list[Call]
    waiting: list[Call]
    doubted: list[Call]


_NO_CALLS = _Calls([], [], [], [], [], [], [], [])


def _by_status(run: RunState) -> _Calls:  # noqa: C901 - an exhaustive match
    calls = _Calls([], [], [], [], [], [], [], [])
    held = False
    for call in run.calls.values():
        match call.status:
            case "in_doubt":
                calls.in_doubt.append(call)
            case "unjudged":
                calls.unjudged.append(call)
            case "ready":
                if call.effect != "once":
                    calls.repeatable.append(call)
                elif not held:
                    calls.once.append(call)
            case "asked":
                calls.asked.append(call)
                held = held or call.effect == "once"
            case "waiting":
                (calls.doubted if call.doubted else calls.waiting).append(call)
                held = held or call.effect == "once"
            case "attempted":
                calls.attempted.append(call)
            case "returned":
                pass
    return calls


def _wait(calls: _Calls) -> Park:
    """For people, or for nested runs that wait for them."""
    ends = [call.ask.expires_at for call in calls.asked if call.ask is not None]
    for call in (*calls.waiting, *calls.doubted):
        ends.append(call.wake_at if call.question is None else call.question.expires_at)
    reason: ParkReason = "approval"
    if not calls.asked:
        reason = "answer" if any([call.question is not None for call in calls.waiting]) else "agent"
    names = ", ".join([call.call.name for call in (*calls.asked, *calls.waiting, *calls.doubted)])
    return Park(reason, names, min([end for end in ends if end is not None], default=None))


def _wait_for_settlement(calls: _Calls) -> Park:
    """For whoever settles what is in doubt of nested runs that were stopped: until then the run does not end."""
    names = ", ".join([call.call.name for call in calls.doubted])
    ends = [call.wake_at for call in calls.doubted if call.wake_at is not None]
    return Park("in_doubt", names, min(ends, default=None))


def _is_over_limit(run: RunState) -> bool:
    """Whether a limit ends the run as it stands, without a last turn."""
    return run.limit is not None and not run.limit.wrap_up


def again_at(run: RunState, now: int) -> int | None:
    """When a run that parks because code failed is to be tried again by itself: one that was woken, by an answer or
    because its time had come, is tried again and again, each time later, so that one instance whose code does not fit
    loses nobody's answer. In milliseconds since the Unix epoch; None: whoever resumes it tries again."""
    return now + MINUTE * 2 ** min(run.woken - 1, _MOST_DOUBLINGS) if run.woken else None


def _worth_retrying(run: RunState) -> bool:
    failure = run.failure
    return failure is not None and failure.retry_after is not None and run.failures <= run.model_retries


def _failed(run: RunState) -> Step:
    message = run.failure.message if run.failure is not None else ""
    if run.wrapping_up:
        return End("stopped", why_stopped(run), message)
    return End("failed", "model_error", message)
