"""Deliberately broken variants of the product, switched on in a child: each must be caught by a law of this folder.

They replace parts of the product from outside; where one is not there any more, that is an error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import msgspec

FAR = 1 << 52
"""Milliseconds since the epoch that nobody lives to see."""


def _replace(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
    setattr(owner, name, made(getattr(owner, name)))


def digest_unchecked() -> None:
    """A yes stands for whatever arguments the call has by now."""
    from shipworthy.engine import approving

    def any_digest(standing: Callable[..., Any]) -> Callable[..., Any]:
        async def stands(run: Any, call: Any, tool: Any, decision: Any, digest: str) -> Any:
            signed = call.grants[-1].digest if call.grants else digest
            return await standing(run, call, tool, decision, signed)

        return stands

    _replace(approving, "standing", any_digest)


def signature_unchecked() -> None:
    """Whoever names a key has signed with it."""
    from shipworthy.rules import approvals

    def named(is_ours: Callable[..., bool]) -> Callable[..., bool]:
        return lambda name, kind, payload, mac, keys: any([key.id == name for key in keys])

    _replace(approvals, "_is_ours", named)


def answered_without_a_fence() -> None:
    """An answer is recorded although others came between looking at the run and taking it."""
    from shipworthy.engine.answering import Answering
    from shipworthy.rules.state import replay

    def careless(append: Callable[..., Any]) -> Callable[..., Any]:
        async def append_anyhow(self: Any, claim: Any, state: Any, taken: Any, wake_in: int) -> Any:
            now = replay(await self._store.read(self._scope, self._run_id))
            return await append(self, claim, now, taken, wake_in)

        return append_anyhow

    _replace(Answering, "_append", careless)


def effect_before_intent() -> None:
    """The yes is used up, and the intent recorded, once the body has run."""
    from shipworthy.domain.events import ToolAttempted
    from shipworthy.engine import execute

    async def intend(run: Any, attempts: Any) -> None:
        for each in attempts:
            run.record(ToolAttempted(call_id=each.call.call.call_id, attempt=each.call.attempts + 1))

    _replace(execute, "_intend", lambda _: intend)


def checked_before_the_claim() -> None:
    """Whether a checkpoint is of the present pause is looked at before the run is taken, and not after."""
    from shipworthy.engine import recover
    from shipworthy.errors import CheckpointRefused
    from shipworthy.rules.state import replay

    def early(claim: Callable[..., Any]) -> Callable[..., Any]:
        async def check_and_claim(runtime: Any, asked: Any) -> Any:
            state = replay(await runtime.store.read(asked.scope, asked.run_id))
            if asked.at is not None and (not state.parked or state.parked_at != asked.at):
                raise CheckpointRefused
            await asyncio.sleep(
                0.05 * (os.getpid() % 4)
            )  # the processes that bring it come one after the other
            return await claim(runtime, msgspec.structs.replace(asked, at=None))

        return check_and_claim

    _replace(recover, "_claim", early)


def policy_not_asked_again() -> None:
    """After a resume a call that people were asked about is judged as it was then."""
    from shipworthy.domain.policy import Decision
    from shipworthy.engine import judging

    def remembering(decide: Callable[..., Any]) -> Callable[..., Any]:
        async def decide_once(run: Any, call: Any, tool: Any, made: Any) -> Any:
            if call.ask is None or not call.grants:
                return await decide(run, call, tool, made)
            return Decision.ask_(rule=call.ask.rule, approvers=call.ask.approvers, among=call.ask.among)

        return decide_once

    _replace(judging, "_decide", remembering)


def expiry_ignored() -> None:
    """A yes holds for ever, and nobody is late."""
    from shipworthy.engine import approving
    from shipworthy.rules import approvals, calls

    def eternal(read: Callable[..., Any]) -> Callable[..., Any]:
        def read_as_eternal(token: str, keys: Any) -> Any:
            return msgspec.structs.replace(read(token, keys), expires_at=FAR)

        return read_as_eternal

    def never(ask_anew: Callable[..., None]) -> Callable[..., None]:
        return lambda call, event: ask_anew(call, msgspec.structs.replace(event, at=0))

    _replace(approvals, "read", eternal)
    _replace(approvals, "agrees", lambda _: lambda event, said, started: said.ruling == "allow")
    _replace(approving, "agrees", lambda _: lambda event, said, started: said.ruling == "allow")
    _replace(approving, "_is_past", lambda _: lambda at: False)
    _replace(calls, "ask_anew", never)


def tenant_unchecked() -> None:
    """A checkpoint says whose run it is, whoever brings it."""
    from shipworthy.app import inputs

    def anybodys(checkpoint_of: Callable[..., Any]) -> Callable[..., Any]:
        return lambda given, tenant: checkpoint_of(given, None)

    _replace(inputs, "_checkpoint_of", anybodys)


def kept_in_memory() -> None:
    """An answer is acknowledged, and becomes durable when the run goes on."""
    from shipworthy.engine import recover
    from shipworthy.engine.answering import Answering

    kept: list[Any] = []

    def forgetful(append: Callable[..., Any]) -> Callable[..., Any]:
        async def keep(self: Any, claim: Any, state: Any, taken: Any, wake_in: int) -> Any:
            kept.extend(taken.events)
            await self._store.release(claim.fence)
            return True

        return keep

    def late(take_over: Callable[..., None]) -> Callable[..., None]:
        def record_and_take_over(run: Any, *others: Any) -> None:
            while kept:
                run.record(kept.pop(0))
            take_over(run, *others)

        return record_and_take_over

    _replace(Answering, "_append", forgetful)
    _replace(recover, "_take_over", late)


def shown_is_not_signed() -> None:
    """People sign the digest that the journal says that they were asked about, whatever they are shown."""
    from shipworthy.engine import pending

    def believing(pending_approval: Callable[..., Any]) -> Callable[..., Any]:
        def made(call: Any, *others: Any) -> Any:
            return msgspec.structs.replace(pending_approval(call, *others), digest=call.ask.digest)

        return made

    _replace(pending, "pending_approval", believing)


_MUTANTS: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        digest_unchecked,
        signature_unchecked,
        answered_without_a_fence,
        effect_before_intent,
        checked_before_the_claim,
        policy_not_asked_again,
        expiry_ignored,
        tenant_unchecked,
        kept_in_memory,
        shown_is_not_signed,
    )
}


def switch_on(name: str) -> None:
    """Break this process."""
    _MUTANTS[name]()
