"""Questions that tool bodies ask: the answer that is recorded, or the pause of the call until there is one.

A body runs again from its start when its answer is there. Answers are kept in the order of the questions, each under a
digest of its question, so that none is given to another question than the one that it was an answer to.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import msgspec

from shipworthy.domain.events import AnswerDropped, HumanAnswered, HumanAsked
from shipworthy.domain.messages import DEVELOPER, Text
from shipworthy.engine.live import LiveRun
from shipworthy.errors import AnswerUnfit, NotInTool
from shipworthy.rules.calls import Call


class Suspended(BaseException):
    """The body waits for an answer. Not an Exception, so that `except Exception` in a body lets it pass."""


class Asking:
    """The questions of one body, in one attempt. `pending`: what it waits for."""

    def __init__(self, call: Call, answers: Sequence[tuple[HumanAnswered, str]]) -> None:
        self._call = call
        self._answers = answers
        self._count = 0
        self._dropped: AnswerDropped | None = None
        self.pending: HumanAsked | None = None

    def ask(
        self,
        data: str,
        schema: str | None,
        timeout: float | None,
        default: str | None,
        decode: Callable[[str], Any],
    ) -> Any:
        """The answer to this question, decoded; *data*, *schema* and *default* are JSON. Raises Suspended."""
        if self.pending is not None:
            raise Suspended  # one question at a time: that of a task beside this one came first
        ordinal, self._count = self._count, self._count + 1
        digest = hashlib.sha256(msgspec.json.encode([data, schema])).hexdigest()
        if ordinal < len(self._answers) and self._dropped is None:
            event, text = self._answers[ordinal]
            if event.digest == digest:
                try:
                    return decode(text)
                except AnswerUnfit as problem:
                    reason = problem.what
            else:
                reason = "The question is another one now."
            self._dropped = AnswerDropped(call_id=self._call.call.call_id, ordinal=ordinal, reason=reason)
        self.pending = HumanAsked(
            call_id=self._call.call.call_id,
            ordinal=ordinal,
            digest=digest,
            data=Text(data, DEVELOPER),
            schema=None if schema is None else Text(schema, DEVELOPER),
            expires_at=None if timeout is None else time.time_ns() // 1_000_000 + int(timeout * 1000),
            default=None if default is None else Text(default, DEVELOPER),
        )
        raise Suspended

    def events(self, run: LiveRun) -> list[AnswerDropped | HumanAsked]:
        """What is recorded of the pause."""
        asked = self.pending
        assert asked is not None
        packed = {
            name: run.pack(part)
            for name in ("data", "schema", "default")
            if (part := getattr(asked, name)) is not None
        }
        kept = msgspec.structs.replace(asked, **packed)
        return [kept] if self._dropped is None else [self._dropped, kept]


asking: ContextVar[Asking | None] = ContextVar("shipworthy_asking", default=None)
"""The body that runs here."""


def current() -> Asking:
    """The body that asks. Raises NotInTool."""
    found = asking.get()
    if found is None:
        raise NotInTool("ask_human and pause_here work inside a tool's body, while a run calls it.")
    return found


def is_pause(error: BaseException) -> bool:
    """Whether *error* is a pause, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all([is_pause(each) for each in error.exceptions])
    return isinstance(error, Suspended)


async def asking_of(run: LiveRun, call: Call) -> Asking:
    """The questions of a body that is about to run, with the answers that are there."""
    answers = [(event, (await run.bodies.part(event.answer)).text) for event in call.answers]
    return Asking(call, answers)
