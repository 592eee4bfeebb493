"""Approvals that come later: the run is parked, and somebody answers, in this process or in another one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from shipworthy.app.approvals import is_async
from shipworthy.app.configuration import seconds
from shipworthy.app.inputs import run_id_of, tenant_of
from shipworthy.app.threads import in_thread
from shipworthy.domain.approvals import ApprovalRequest
from shipworthy.domain.policy import Approve, Deny
from shipworthy.domain.scope import Scope
from shipworthy.engine.answering import Answering, shown_of
from shipworthy.engine.requests import of_run, of_tenant
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError, IdentityMissing

WEEK = 7 * 86_400.0


class Inbox:
    """Parks a run that needs approval: `Agent(..., approval_handler=Inbox())`. The journal keeps the requests; any
    process with the same runtime lists and answers them, and any instance goes on with the run.

    `notify`: a function that is told of new requests, such as one that posts to a channel; what it raises is logged,
    for the requests are in the journal. `expires_in`: seconds until nobody having answered is a no (None: never).
    `runtime`: for a process that answers and has no agent; an agent gives the inbox its own.
    """

    def __init__(
        self,
        *,
        notify: Callable[[Sequence[ApprovalRequest]], Any] | None = None,
        expires_in: float | None = WEEK,
        runtime: Runtime | None = None,
    ) -> None:
        if notify is not None and not callable(notify):
            raise ConfigurationError(
                f"notify={notify!r} is no function.", fix="Pass a function of the requests."
            )
        if runtime is not None and not isinstance(runtime, Runtime):
            raise ConfigurationError(
                f"runtime={runtime!r} is no runtime.", fix='Pass SqliteRuntime("./bot.db").'
            )
        self._notify = notify
        self._expires_in = None if expires_in is None else seconds("expires_in", expires_in)
        self._runtime = runtime

    @property
    def expires_in(self) -> float | None:
        """Seconds that people have to answer; None for as long as they like."""
        return self._expires_in

    def of(self, runtime: Runtime) -> None:
        """Answer requests of this runtime. Raises ConfigurationError if it is another one already."""
        if self._runtime is not None and self._runtime is not runtime:
            raise ConfigurationError(
                "An Inbox is shared by agents of different runtimes.",
                fix="Give each runtime an Inbox of its own.",
            )
        self._runtime = runtime

    async def requests(self, tenant_id: str, *, run_id: str | None = None) -> list[ApprovalRequest]:
        """What waits for a yes, of one tenant or of one of its runs. Raises RunNotFound, IdentityMissing,
        ConfigurationError for an inbox without a runtime."""
        runtime, scope = await self._open(tenant_id)
        if run_id is None:
            return await of_tenant(runtime.store, scope)
        return await of_run(runtime.store, scope, run_id)

    async def approve(self, request: ApprovalRequest, answer: Approve) -> None:
        """Say yes to exactly this call. Raises AnswerRefused, RunBusy, RunNotFound."""
        await self._answer(request, answer, Approve)

    async def deny(self, request: ApprovalRequest, answer: Deny) -> None:
        """Say no to this call. Raises AnswerRefused, RunBusy, RunNotFound."""
        await self._answer(request, answer, Deny)

    async def _answer(self, request: ApprovalRequest, answer: Any, kind: type[Any]) -> None:
        if type(request) is not ApprovalRequest or type(answer) is not kind:
            raise ConfigurationError(
                f"An inbox was given {type(request).__name__} and {type(answer).__name__}.",
                fix=f"Pass one of inbox.requests(...), and {kind.__name__}(by=...).",
            )
        runtime, scope = await self._open(request.scope.tenant)
        answering = Answering(runtime, scope, run_id_of(request.run_id) or "", shown=shown_of(request))
        await answering.take({request.address: answer})

    async def _open(self, tenant_id: str) -> tuple[Runtime, Scope]:
        if self._runtime is None:
            raise ConfigurationError(
                "An Inbox without a runtime was asked.",
                fix="Pass Inbox(runtime=...), or give it to an Agent.",
            )
        if (tenant := tenant_of(tenant_id)) is None:
            raise IdentityMissing("Requests are found by their tenant, and tenant_id is missing.")
        await self._runtime.open()
        return self._runtime, Scope(tenant)

    async def deliver(self, requests: Sequence[ApprovalRequest]) -> None:
        """Tell whoever is to be told. Raises what `notify` raises."""
        if self._notify is None:
            return
        if is_async(self._notify):
            await self._notify(requests)
            return
        told = await in_thread(None, self._notify, requests)
        if inspect.isawaitable(told):
            await told
