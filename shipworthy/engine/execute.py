"""Running tools: the intent is durable before the body starts, and the result is recorded after it.

Whoever wants to know what the guarantee is reads the order of the lines in `execute`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from shipworthy.domain.events import ReturnKind, ToolAttempted, ToolInDoubt, ToolReturned
from shipworthy.domain.messages import RUNTIME, File, Image, Stored, Text
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.judge import missing_tool
from shipworthy.engine.live import LiveRun, idempotency_key
from shipworthy.errors import ModelRetry, NotDone, UnserialisableResult
from shipworthy.ports.tools import Tool
from shipworthy.rules.codec import encode_part
from shipworthy.rules.decide import Execute
from shipworthy.rules.state import Call
from shipworthy.rules.text import clean, shown


async def execute(run: LiveRun, step: Execute) -> None:
    """Run the calls of *step*: record the intents, commit, start the bodies, record what they gave."""
    attempts: list[_Attempt] = []
    for call in step.calls:
        tool = run.blueprint.tools.get(call.call.name)
        if tool is None:
            return missing_tool(run, call.call.name)
        attempts.append(await _prepare(run, call, tool))
    await _intend(run, attempts)
    if len(attempts) > 1:
        return await _side_by_side(run, attempts)
    try:
        await attempts[0].perform()
    finally:
        attempts[0].record()


async def _intend(run: LiveRun, attempts: Sequence[_Attempt]) -> None:
    """Make the intents durable; anew, if so much time went by meanwhile that the run may have another owner."""
    started = False
    while not started:
        start_by = run.store.start_by()
        for attempt in attempts:
            attempt.intend(start_by)
        await run.recorder.commit()
        started = run.store.clock() <= start_by


async def _side_by_side(run: LiveRun, attempts: Sequence[_Attempt]) -> None:
    """Record each result as it comes; whoever reads along sees it at once. Leaves no body running behind."""
    finished: asyncio.Queue[_Attempt] = asyncio.Queue()
    tasks = [asyncio.create_task(attempt.perform()) for attempt in attempts]
    for task, attempt in zip(tasks, attempts, strict=True):
        task.add_done_callback(lambda _, a=attempt: finished.put_nowait(a))  # type: ignore[misc]
    try:
        for _ in attempts:
            (await finished.get()).record()
            if run.recorder.watchers and finished.empty():
                await run.recorder.commit()
    finally:
        waiting = [task for task in tasks if not task.done()]
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)
        for attempt in attempts:
            attempt.record()


async def _prepare(run: LiveRun, call: Call, tool: Tool) -> _Attempt:
    call_id = call.call.call_id
    raw = await run.bodies.arguments(call.call)
    arguments = run.arguments.pop(call_id) if call_id in run.arguments else tool.parse(raw)
    return _Attempt(run, call, tool, arguments, idempotency_key(run.scope, run.run_id, call_id, raw))


class _Attempt:
    """One body, from its intent to what is recorded of it."""

    __slots__ = ("_arguments", "_call", "_key", "_outcome", "_run", "_tool")

    def __init__(self, run: LiveRun, call: Call, tool: Tool, arguments: Any, key: str) -> None:
        self._run = run
        self._call = call
        self._tool = tool
        self._arguments = arguments
        self._key = key
        self._outcome: ToolReturned | ToolInDoubt | None = None

    @property
    def _timeout(self) -> float:
        timeout = self._tool.timeout
        return self._run.blueprint.limits.tool_timeout if timeout is None else timeout

    def intend(self, start_by: int) -> None:
        attempt = self._call.attempts + 1
        call_id = self._call.call.call_id
        self._run.recorder.record(
            ToolAttempted(call_id=call_id, attempt=attempt, start_by=start_by, timeout=self._timeout)
        )

    def record(self) -> None:
        """Record what the body gave, once. A body that was cancelled without consequence gave nothing."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            recorder = self._run.recorder
            recorder.record(outcome)
            recorder.urgent = recorder.urgent or self._call.effect != "read"

    async def perform(self) -> None:
        """Run the body, again as often as the tool allows. Raises nothing but the run's own cancellation."""
        for retry in range(self._tool.retries, -1, -1):
            if await self._once_through(retry):
                return

    async def _once_through(self, retries_left: int) -> bool:
        """One start of the body; False to start it again."""
        tool = self._tool
        context = self._run.context(self._call.call, self._key, self._call.attempts)
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                content = await tool.invoke(context, self._arguments)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            cancelled = task is not None and task.cancelling() > 0
            self._interrupted("it was cancelled", "error", context, settled=not cancelled)
            if cancelled:
                raise
        except (NotDone, ModelRetry) as signal:
            return self._signalled(signal)
        except UnserialisableResult as problem:
            self._unserialisable(problem)
        except Exception as error:
            if limit.expired():
                self._interrupted(
                    f"it took longer than {self._timeout:g} s", "timeout", context, settled=True
                )
            elif retries_left and self._call.effect != "once":
                return False
            else:
                self._interrupted(clean(f"{type(error).__name__}: {error}"), "error", context, settled=True)
        else:
            self._returned(content)
        return True

    def _returned(self, content: tuple[Text | Image | File, ...]) -> None:
        limit = self._tool.max_result or self._run.blueprint.limits.max_result
        parts, whole = fit(content, limit, self._run.bodies)
        self._outcome = ToolReturned(call_id=self._call.call.call_id, content=parts, whole=whole)

    def _say(self, words: str, outcome: ReturnKind, *, thread_running: bool = False) -> None:
        said = (Text(words, origin=f"tool:{self._tool.spec.name}", trust="untrusted"),)
        call_id = self._call.call.call_id
        self._outcome = ToolReturned(
            call_id=call_id, content=said, outcome=outcome, thread_running=thread_running
        )

    def _signalled(self, signal: NotDone | ModelRetry) -> bool:
        words = clean(signal.what)
        if isinstance(signal, NotDone):
            self._say(f"Not done: {words}", "not_done")
        elif self._call.effect == "once":
            self._doubt(f"it raised ModelRetry: {words}", thread_running=False)
        else:
            self._say(words, "rejected")
        return True

    def _unserialisable(self, problem: UnserialisableResult) -> None:
        """The body came to its end: a `once` effect happened, whatever its result looks like."""
        words = f"The tool finished, but its result cannot be shown: {problem.what}"
        self._say(words, "ok" if self._call.effect == "once" else "error")

    def _interrupted(self, why: str, outcome: ReturnKind, context: Any, *, settled: bool) -> None:
        """The body ended without a result. A `once` call is in doubt; another one is answered with the reason, or left
        open to run again if the run itself is being stopped."""
        running = self._tool.threaded and self._tool.still_running(context)
        if self._call.effect == "once":
            self._doubt(why, thread_running=running)
        elif settled or running:
            words = f"The tool failed: {why}."
            self._say(words, outcome, thread_running=running)

    def _doubt(self, why: str, *, thread_running: bool) -> None:
        call_id = self._call.call.call_id
        reason = f"The body of this `once` call did not say whether its effect happened: {why}."
        self._outcome = ToolInDoubt(call_id=call_id, reason=reason, thread_running=thread_running)


def fit(
    content: tuple[Text | Image | File, ...], limit: int, bodies: Bodies
) -> tuple[tuple[Text | Image | File | Stored, ...], Stored | None]:
    """A result's parts as events carry them: large ones stored, oversized text shown in part and kept whole."""
    whole: Stored | None = None
    parts: list[Text | Image | File | Stored] = []
    for part in content:
        if type(part) is Text and len(part.text) > limit:
            whole = bodies.keep(encode_part(part), origin=part.origin, trust=part.trust)
            part = Text(shown(part.text, limit), origin=part.origin, trust=part.trust)
        parts.append(bodies.pack(part))
    return tuple(parts), whole


def settled_content(run: LiveRun, call: Call, value: Any) -> tuple[tuple[Any, ...], Stored | None]:
    """What a settlement says that the call returned, as its tool would have shown it."""
    tool = run.blueprint.tools.get(call.call.name)
    limit = run.blueprint.limits.max_result
    if tool is not None:
        return fit(tool.parts(value), tool.max_result or limit, run.bodies)
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return fit((Text(text, origin=RUNTIME, trust="untrusted"),), limit, run.bodies)
