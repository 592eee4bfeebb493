"""A status line for people: what a run is about now, in a few words, and never what it says or is told."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shipworthy.app.commands.timeline import one_line
from shipworthy.app.delivery import CAPACITY, Delivery, Fate, Work
from shipworthy.app.recorders import (
    Names,
    Observed,
    Onlooker,
    Unmoved,
    capacity_of,
    loop_of,
    name_of,
    takes_two,
)
from shipworthy.domain.events import (
    AgentPaused,
    AnyEvent,
    ApprovalRequested,
    HumanAsked,
    ModelAnswered,
    ModelRequested,
    RunEnded,
    RunParked,
    RunResumed,
    RunStarted,
    StopRequested,
    ToolAttempted,
    ToolInDoubt,
    ToolReturned,
)
from shipworthy.domain.messages import ToolCall
from shipworthy.errors import ConfigurationError
from shipworthy.ports.readers import Sight, Sitting
from shipworthy.rules.learning import SUFFIX as LEARNER

LONGEST = 80
"""Characters of a status."""

PHASES: Mapping[str, str] = {
    "thinking": "thinking",
    "answering": "answering",
    "approval": "waiting for approval",
    "question": "waiting for an answer",
    "waiting": "waiting",
    "stopping": "stopping",
    "interrupted": "interrupted",
    "completed": "done",
    "stopped": "stopped",
    "cancelled": "cancelled",
    "failed": "failed",
}
"""What is said in each phase, apart from tools. "waiting" is for somebody to look into it."""

_FINAL = {"interrupted", "completed", "stopped", "cancelled", "failed"}
_PARKED = {"approval": "approval", "answer": "question"}


class StatusLine:
    """Tells `on_status(text)` or `on_status(text, about)` what each run is about, for the user interface of a chat:
    "Looking up the order…". `agent.attach(StatusLine(on_status))`.

    `words`: what to say while a tool runs, by its name; without, its name is said. `phases`: other words than those of
    `shipworthy.app.status_line.PHASES`, such as those of another language. A run's status is told at most once in
    `every` seconds, the newest one; its last one and a pause at once. `loop` and `capacity` are those of
    `agent.attach`. Raises ConfigurationError.
    """

    def __init__(
        self,
        on_status: Callable[..., Any],
        *,
        words: Mapping[str, str] | None = None,
        phases: Mapping[str, str] | None = None,
        every: float = 0.2,
        loop: asyncio.AbstractEventLoop | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        if not callable(on_status) or isinstance(on_status, type):
            raise ConfigurationError(
                f"on_status={on_status!r} is no function.", fix="Pass a function of a text."
            )
        if isinstance(every, bool) or not isinstance(every, (int, float)) or not 0 <= every < 60:
            raise ConfigurationError(f"every={every!r} is not a time.", fix="Pass seconds, from 0 to 60.")
        own = _words_of("phases", phases)
        if unknown := sorted(own.keys() - PHASES.keys()):
            raise ConfigurationError(
                f"There is no phase {unknown[0]!r}.", fix=f"Name one of {', '.join(PHASES)}."
            )
        self.phases = {phase: status(text, ends=phase in _FINAL) for phase, text in {**PHASES, **own}.items()}
        self.words = {name: status(text) for name, text in _words_of("words", words).items()}
        self.on_status = on_status
        self.both = takes_two(on_status)
        box = Latest(capacity_of(capacity), float(every))
        where = None if loop is None else loop_of(loop)
        self.delivery: Delivery[tuple[Line, str, bool]] = Delivery(name_of(on_status), box, where)

    def sitting(self, sight: Sight) -> Sitting:
        """Begin to tell of a sitting; of one that learns from another run there is nothing that anybody waits for."""
        return Unmoved() if sight.agents[-1].endswith(LEARNER) else _Status(self, sight)

    def trace(self) -> str:
        """None."""
        return ""

    def tool(self, name: str) -> str:
        """What is said while this tool runs."""
        return self.words.get(name) or status(re.sub(r"[\W_]+", " ", name) or "working")

    def call(self, text: str, about: Observed | None) -> Work:
        """What tells it."""
        if self.both:
            return functools.partial(self.on_status, text, about)
        return functools.partial(self.on_status, text)


def _words_of(name: str, given: Any) -> dict[str, str]:
    words = {} if given is None else given
    if not isinstance(words, Mapping) or not all(
        [isinstance(text, str) and text.strip() for pair in words.items() for text in pair]
    ):
        raise ConfigurationError(
            f"{name}= is no mapping of names to texts.",
            fix=f'Pass {name}={{"lookup_order": "looking up the order"}}.'
            if name == "words"
            else f'Pass {name}={{"thinking": "one moment"}}.',
        )
    return dict(words)


def status(text: str, ends: bool = False) -> str:
    """*text* as a status: one line, a capital first, an ellipsis while it goes on."""
    said = one_line(text)[:LONGEST]
    said = said[:1].upper() + said[1:]
    return said if ends or said.endswith((".", "…", "!", "?")) else f"{said}…"


class Line:
    """One run's status line: what was told last, what waits to be told, and from when on."""

    __slots__ = ("about", "of", "text", "ticket", "told", "urgent", "wait_until")

    def __init__(self, of: StatusLine) -> None:
        self.of = of
        self.about: Observed | None = None
        self.told = self.text = ""
        self.ticket = 0
        self.urgent = False
        self.wait_until = 0.0


class Latest:
    """The newest status of each run, none sooner than *every* seconds after the one before."""

    def __init__(self, capacity: int, every: float) -> None:
        self._capacity = capacity
        self._every = every
        self._waiting: dict[Line, None] = {}

    def put(self, ticket: int, item: tuple[Line, str, bool]) -> Fate:
        line, text, urgent = item
        joins = line in self._waiting
        if not joins and len(self._waiting) >= self._capacity:
            return "dropped"
        self._waiting[line] = None
        line.ticket, line.text, line.urgent = ticket, text, urgent
        return "joined" if joins and not urgent else "taken"

    def take(self, now: float) -> tuple[int, Work] | float | None:
        while self._waiting:
            line = next((each for each in self._waiting if each.urgent or each.wait_until <= now), None)
            if line is None:
                return max(0.001, min([each.wait_until for each in self._waiting]) - now)
            del self._waiting[line]
            if line.text != line.told:
                line.told, line.wait_until = line.text, now + self._every
                return line.ticket, line.of.call(line.text, line.about)
        return None

    def oldest(self) -> int | None:
        return min([line.ticket for line in self._waiting], default=None)

    def clear(self) -> None:
        self._waiting.clear()


class _Status(Onlooker):
    __slots__ = ("_line", "_names", "_of", "_open", "_resting")

    def __init__(self, of: StatusLine, sight: Sight) -> None:
        super().__init__(sight)
        self._of = of
        self._line = Line(of)
        self._line.about = self._about
        self._names = Names(sight.past)
        self._open: dict[str, None] = {}
        self._resting = False

    def saw(self, events: Sequence[AnyEvent]) -> None:
        phase = text = ""
        self._line.about = self.about(events)
        for event in events:
            self._names.note(event)
            if type(event) is ToolAttempted:
                self._open[event.call_id] = None
            elif isinstance(event, (ToolReturned, ToolInDoubt)):
                self._open.pop(event.call_id, None)
            now = self._phase(event)
            if now:
                phase, text = now, self._text(now)
        if text:
            self._resting = phase in _FINAL or isinstance(events[-1], RunParked)
            self._tell(text, self._resting)

    def over(self, error: BaseException | None) -> None:
        known = self._line.about is not None
        if error is not None and known and not self._resting:  # without one, it goes on elsewhere
            self._tell(self._of.phases["interrupted"], True)

    def _tell(self, text: str, urgent: bool) -> None:
        self._of.delivery.offer([(self._line, text, urgent)])

    def _text(self, phase: str) -> str:
        if phase != "tool":
            return self._of.phases[phase]
        return self._of.tool(self._names.of(next(reversed(self._open))))

    def _phase(self, event: AnyEvent) -> str:
        """The phase that begins with *event*; "" if it goes on."""
        match event:
            case RunStarted() | RunResumed() | ModelRequested():
                return "thinking"
            case ModelAnswered():
                return "" if any([type(part) is ToolCall for part in event.parts]) else "answering"
            case ToolAttempted() | ToolReturned():
                return "tool" if self._open else ""
            case ApprovalRequested():
                return "approval"
            case HumanAsked():
                return "question"
            case AgentPaused():
                return "waiting"
            case RunParked():
                return _PARKED.get(event.reason, "waiting")
            case StopRequested():
                return "stopping"
            case RunEnded():
                return event.status
            case _:
                return ""
