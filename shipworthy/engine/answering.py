"""Taking people's answers: they become events of the paused run, and whoever resumes it acts on them.

An answer is checked and recorded under the run's fence, and the run stays paused. So it is durable before anything is
done about it, it counts once, and it makes no difference which process goes on with the run.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
from msgspec.structs import force_setattr, replace

from shipworthy.domain.approvals import ApprovalRequest
from shipworthy.domain.events import AnswerRejected, AnyEvent, ApprovalGranted, HumanAnswered
from shipworthy.domain.grants import Grant
from shipworthy.domain.journal import Batch, Claim
from shipworthy.domain.messages import USER, Text
from shipworthy.domain.pausing import Checkpoint, PendingCall
from shipworthy.domain.policy import Approve, Deny
from shipworthy.domain.scope import Scope
from shipworthy.engine.auditing import commit
from shipworthy.engine.bodies import Bodies
from shipworthy.engine.fitting import misfit
from shipworthy.engine.keyring import Keyring
from shipworthy.engine.pending import pending_of
from shipworthy.engine.recover import claimed, leave
from shipworthy.engine.runtime import Runtime
from shipworthy.engine.signing import NOT_TAKEN, TOO_LATE, Refusal, event_of, grant_of, token_of, verified
from shipworthy.errors import AnswerRefused, CheckpointRefused, Fenced, RunBusy
from shipworthy.rules import approvals as rules
from shipworthy.rules.state import RunState, fold, replay
from shipworthy.rules.text import clean

MOST_REFUSALS = 100
"""Refused answers that one pause records; those after it are refused all the same."""
_TRIES = 30
GRACE = 30_000
"""Milliseconds for which a run that was answered is left to whoever answered it."""
_LONGEST = 100_000


Shown = tuple[object, ...]


def shown_of(asked: PendingCall | ApprovalRequest) -> Shown:
    """What was shown, as far as an answer is held to it: the arguments, or the question; who is asked, and why."""
    request = (asked.rule, asked.policy, asked.reason, asked.approvers, asked.among)
    return (asked.digest, *request)


class Answering:
    """One answer, or several, to a paused run of *scope*'s tenant; *checkpoint*: what it was brought with. *shown*:
    what whoever answers has seen (`shown_of`). *address*: the one call that the answer is for."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        run_id: str,
        checkpoint: Checkpoint | None = None,
        shown: Shown | None = None,
        address: str | None = None,
    ) -> None:
        self._shown, self._address = shown, address
        self._runtime, self._store, self._keyring = runtime, runtime.store, runtime.keyring
        self._scope, self._run_id, self._checkpoint = scope, run_id, checkpoint

    async def take(self, answer: Any, wake_in: int = 0) -> int:
        """Record the answer. When nothing else is waited for, the run is due in *wake_in* milliseconds. Gives the event
        with which the run paused. Raises RunNotFound, RunBusy, AnswerRefused, CheckpointRefused, StoreError: then
        nothing else happened."""
        for turn in range(_TRIES):
            if turn:
                await asyncio.sleep(random.uniform(0, min(0.002 * 2**turn, 0.1)))
            state = replay(await self._store.read(self._scope, self._run_id))
            taken: _Taken | AnswerRefused | CheckpointRefused
            try:
                taken = await self._taken(state, answer)
            except Refusal as no:
                taken = AnswerRefused(f"The answer to run {self._run_id!r} is not taken: {no.what}.")
            except CheckpointRefused as no:
                taken = no
            if not state.parked:
                self._raise_unparked(state, taken)
            if not isinstance(taken, _Taken) and await self._is_answered(state):
                raise taken
            if await self._record(state, taken, wake_in):
                if not isinstance(taken, _Taken):
                    raise taken
                return state.parked_at
        raise RunBusy(
            f"Run {self._run_id!r} is being answered or resumed by others all the time.",
            fix="Bring the answer again: it was not recorded.",
        )

    async def _check(self, state: RunState) -> None:
        """Raises CheckpointRefused for a checkpoint that is not one of this pause."""
        if self._checkpoint is None:
            return
        name = self._checkpoint["key"]
        try:
            rules.check_checkpoint(self._checkpoint, await self._keyring.all(name))
        except rules.Forged:
            raise CheckpointRefused from None
        mine = (self._checkpoint["tenant_id"], self._checkpoint["run_id"], self._checkpoint["seq"])
        if not state.parked or mine != (state.started.tenant, state.started.run_id, state.parked_at):
            raise CheckpointRefused

    async def use(self) -> int:
        """See that the checkpoint is one of this pause, and give its event. Raises RunNotFound, CheckpointRefused,
        which is recorded."""
        state = replay(await self._store.read(self._scope, self._run_id))
        try:
            await self._check(state)
        except CheckpointRefused as no:
            if state.parked and not await self._is_answered(state):
                await self._record(state, no, 0)
            raise
        return state.parked_at

    async def _is_answered(self, state: RunState) -> bool:
        """Whether the pause has all its answers: then a refusal is not recorded, for that would take the run away from
        whoever is about to go on with it."""
        answers = state.seq - state.parked_at - state.refusals
        return answers > 0 and not await pending_of(self._store, state)

    def _raise_unparked(self, state: RunState, taken: _Taken | AnswerRefused | CheckpointRefused) -> NoReturn:
        """Of a run that waits for nobody."""
        if isinstance(taken, CheckpointRefused):
            raise taken
        if state.ended is not None:
            raise AnswerRefused(f"Run {self._run_id!r} has ended: nothing of it waits for an answer.")
        raise RunBusy(
            f"Run {self._run_id!r} is not paused: nothing of it waits for an answer now.",
            fix="Read its result once it has one: pending says whether it waits again.",
        )

    async def _taken(self, state: RunState, answer: Any) -> _Taken:
        await self._check(state)
        if state.started.parent is not None:
            raise Refusal(
                f"it is a nested run: answer run {state.started.parent.root!r}, which it belongs to"
            )
        waiting = {w.address: w for w in await pending_of(self._store, state) if w.kind != "in_doubt"}
        scope = Scope(state.started.tenant, state.started.user, state.started.session)
        taken = _Taken()
        for address, each in (await self._by_address(waiting, answer)).items():
            if self._shown is not None and shown_of(waiting[address]) != self._shown:
                raise Refusal("something else is asked now than what was shown: look at it again")
            await taken.add(self._keyring, scope, self._run_id, waiting[address], each)
        _tell(state, taken.events)
        taken.complete = not [w for w in await pending_of(self._store, state) if w.kind != "in_doubt"]
        return taken

    async def _by_address(self, waiting: Mapping[str, PendingCall], answer: Any) -> Mapping[str, Any]:
        if not waiting:
            raise Refusal("nothing of it waits for an answer, or it has been answered")
        if self._address is not None:
            if self._address not in waiting:
                raise Refusal(NOT_TAKEN)
            return {self._address: answer}
        if rules.is_token(answer):
            said = await verified(self._keyring, answer)
            if said.address not in waiting:
                raise Refusal(NOT_TAKEN)
            return {said.address: answer}
        only = next(iter(waiting.values()))
        addressed = isinstance(answer, Mapping) and set(answer) == {only.address}
        if len(waiting) == 1 and not addressed and (only.kind == "answer" or not isinstance(answer, Mapping)):
            return {only.address: answer}
        if not isinstance(answer, Mapping) or not answer:
            raise Refusal(
                f"{len(waiting)} calls wait, so it has to be a mapping of their addresses to the answers"
            )
        if unknown := [key for key in answer if key not in waiting]:
            raise Refusal(f"{unknown[0]!r} is no address that waits; these do: {', '.join(waiting)}")
        return answer

    async def _record(
        self, state: RunState, taken: _Taken | AnswerRefused | CheckpointRefused, wake_in: int
    ) -> bool:
        """Append to the paused run, if nobody else did meanwhile."""
        if not isinstance(taken, _Taken) and state.refusals >= MOST_REFUSALS:
            return True
        free = self._runtime.expect(self._scope, self._run_id)
        try:
            if not free:
                return False
            claim = await claimed(self._store, self._scope, self._run_id)
            try:
                return await self._append(claim, state, taken, wake_in)
            except BaseException:
                await leave(self._store, claim.fence)
                raise
        except (Fenced, RunBusy):
            return False
        finally:
            self._runtime.expected(self._scope, self._run_id)

    async def _append(
        self, claim: Claim, state: RunState, taken: _Taken | AnswerRefused | CheckpointRefused, wake_in: int
    ) -> bool:
        if await self._store.read(self._scope, self._run_id, state.seq):
            await self._store.release(claim.fence)
            return False
        batch = Batch([], {}, "paused", wake_at=state.wake_at)
        if isinstance(taken, _Taken):
            batch.events, batch.bodies, batch.grants = taken.events, taken.bodies.take(), tuple(taken.grants)
            if taken.complete:
                batch.wake_at = _now() + wake_in
        else:
            batch.events = [AnswerRejected(reason=clean(taken.what)[:1000])]
        for number, event in enumerate(batch.events):
            force_setattr(event, "seq", state.seq + 1 + number)
            force_setattr(event, "at", _now())
        witness = await self._runtime.witness(state)
        await commit(self._store, witness, claim.fence, batch)
        if witness is not None:
            self._runtime.logs.entered(self._scope, self._run_id, state.seq + len(batch.events))
        return True


class _Taken:
    """What is to be recorded of answers. `complete`: nothing else is waited for then."""

    def __init__(self) -> None:
        self.bodies, self.complete = Bodies(_no_body), False
        self.events: list[AnyEvent] = []
        self.grants: list[Grant] = []

    async def add(
        self, keyring: Keyring, scope: Scope, run_id: str, waiting: PendingCall, answer: Any
    ) -> None:
        """One of them. Raises Refusal, StoreError."""
        if waiting.kind == "answer":
            self.events.append(await self._human(waiting, answer))
            return
        token = answer
        if not rules.is_token(answer):
            token = await token_of(keyring, scope, run_id, waiting, answer)
        said = answer if isinstance(answer, (Approve, Deny)) else None
        event = await event_of(keyring, scope, run_id, waiting, token, said)
        if isinstance(event, ApprovalGranted):
            if (grant := grant_of(event, scope, waiting.agents)) is not None:
                self.grants.append(grant)
            if event.call is not None:
                event = replace(event, call=self.bodies.pack(event.call))
        self.events.append(event)

    async def _human(self, waiting: PendingCall, answer: Any) -> HumanAnswered:
        if waiting.expires_at is not None and waiting.expires_at <= _now():
            raise Refusal(TOO_LATE)
        try:
            text = msgspec.json.encode(answer).decode()
            if len(text) > _LONGEST:
                raise Refusal(f"it has {len(text)} characters of JSON, and {_LONGEST} are taken")
            data = msgspec.json.decode(text := clean(text))
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise Refusal(f"it cannot be written as JSON: {error}") from None
        if waiting.schema is not None and (wrong := await misfit(data, waiting.schema)) is not None:
            raise Refusal(f"it does not fit what is asked: {wrong}")
        return HumanAnswered(
            id=os.urandom(12).hex(),
            address=waiting.address,
            ordinal=waiting.ordinal,
            digest=waiting.digest,
            answer=self.bodies.pack(Text(text, USER, "untrusted")),
            by="person",
        )


def _tell(state: RunState, events: list[AnyEvent]) -> None:
    """Make of *state*, which was read for the purpose, what it would be after these events; its `seq` stays."""
    for event in events:
        fold(state, replace(event, seq=state.seq, at=state.at))


async def _no_body(digest: str) -> bytes:
    raise KeyError(digest)


def _now() -> int:
    return time.time_ns() // 1_000_000
