"""One canary for each tenant, planted wherever anything comes into a memory or an agent, and all that comes out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from shipworthy.domain.memory import NOWHERE, Mark
from shipworthy.domain.scope import Scope
from shipworthy.engine.memory.memory import Memory
from shipworthy.errors import ShipworthyError
from shipworthy.rules.memory.facts import Belief
from tests.memory.tenants import Assistant, said

TENANTS = "acme", "acme2", "ac%", "globex"
WORDS = "the secret number in the book"


def canary_of(tenant: str) -> str:
    """A word that only this tenant says."""
    return f"canary{TENANTS.index(tenant)}x"


def scopes_of(tenant: str) -> list[Scope]:
    """The tenant, its user, a session, and a user and a session whose names are the canary."""
    bird = canary_of(tenant)
    return [
        *(Scope(tenant), Scope(tenant, "alice"), Scope(tenant, "alice", "trip")),
        *(Scope(tenant, bird), Scope(tenant, "alice", bird)),
    ]


class Ear:
    """Everything that a tenant is told: results, errors, warnings, what is logged meanwhile, what its model is sent."""

    def __init__(self, assistant: Assistant) -> None:
        self.heard: list[str] = []
        self._assistant = assistant

    async def hear(self, asking: Awaitable[Any]) -> Any:
        """What this gives, or None."""
        seen: Any = None
        self._assistant.sent.clear()
        with warnings.catch_warnings(record=True) as warned, _logged(self.heard):
            warnings.simplefilter("always")
            try:
                seen = await asking
                self.heard.append(f"{seen!r}")
            except ShipworthyError as error:
                self.heard += [
                    f"{error!r}",
                    str(error),
                    *getattr(error, "__notes__", ()),
                    f"{error.__cause__!r}",
                ]
        self.heard += [*(str(one.message) for one in warned), *self._assistant.sent]
        return seen


@contextmanager
def _logged(heard: list[str]) -> Any:
    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")

    root, handler, level = logging.getLogger("shipworthy"), Listening(), logging.getLogger("shipworthy").level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


async def speaks(tenant: str, memory: Memory, assistant: Assistant, ear: Ear, turn: int) -> None:
    """Say the tenant's canary in every way there is."""
    bird, agent = canary_of(tenant), assistant.agent
    for scope in scopes_of(tenant):
        await ear.hear(memory.remember(scope, f"{WORDS} is {bird}", id=f"id {turn}"))
        belief = Belief(subject="number", predicate="is", object=f"{bird} in the book", single=turn == 1)
        await ear.hear(memory.facts.learn(scope, [belief], batch=f"batch {turn}"))
        await ear.hear(memory.set_block(scope, "block", f"{WORDS} is {bird}"))
    for scope in scopes_of(tenant)[1:]:
        who: dict[str, Any] = {"tenant_id": tenant, "user_id": scope.user}
        who |= {} if scope.session is None else {"session_id": scope.session}
        for nth, prompt in enumerate(
            (f"{WORDS} {bird}", f"look up {bird}", f"look for nothing {bird}", f"fail {bird}")
        ):
            await ear.hear(agent.run(prompt, run_id=f"{scope.user} {scope.session} {turn} {nth}", **who))


async def listens(tenant: str, memory: Memory, assistant: Assistant, ear: Ear) -> None:
    """Ask for everything that a tenant can ask for, and for what is others'."""
    agent = assistant.agent
    for scope in scopes_of(tenant):
        asked: Sequence[Awaitable[Any]] = (
            *(
                memory.recall(scope, WORDS, limit=50),
                memory.facts.of(scope, superseded=True, quarantined=True),
            ),
            *(
                memory.blocks(scope),
                memory.episodes(scope),
                _exported(memory, scope),
                memory.store.within(scope),
            ),
            *(
                memory.store.changes(scope, NOWHERE),
                memory.store.page(scope),
                memory.store.get(scope, ["id 0"]),
            ),
            *(memory.store.put(scope, [], at=Mark(5, 5)), memory.remember(scope, " "), memory.forget(scope)),
            *(memory.remember(scope, "x" * (17 << 20)), memory.set_block(scope, "", "x")),
            *(memory.forget(scope, ids=["id 0"]), memory.forget(scope, query=f"{WORDS} canary", before=1)),
        )
        for one in asked:
            await ear.hear(one)
    alice: dict[str, Any] = {"tenant_id": tenant, "user_id": "alice"}
    for nth, session in enumerate((None, "trip", "new")):
        who = alice | ({} if session is None else {"session_id": session})
        await ear.hear(agent.run(f"What is {WORDS}?", run_id=f"asks {nth}", **who))
        await ear.hear(agent.runtime.store.read(Scope(tenant), f"asks {nth}"))
        async with agent.stream(f"Again, what is {WORDS}?", run_id=f"asks again {nth}", **who) as reading:
            ear.heard += [str(delta) async for delta in reading]
    for other in TENANTS:
        for nth in range(4):
            user = canary_of(other) if other != tenant else "alice"
            with suppress(ShipworthyError):  # its name has the canary in it because we put it there
                found = await agent.runtime.store.read(Scope(tenant), f"{user} None 0 {nth}")
                ear.heard.append(f"{found!r}")


async def _exported(memory: Memory, scope: Scope) -> list[str]:
    return [said(found) async for found in memory.export(scope)]


async def overheard(make: Callable[[], Memory], turns: int = 1) -> dict[str, int]:
    """How much each tenant heard. Raises AssertionError with the first thing that says another tenant's canary."""
    memory = make()
    assistant = Assistant(memory)
    ears = {tenant: Ear(assistant) for tenant in TENANTS}
    async with assistant.agent:
        for turn in range(turns):
            for tenant, ear in ears.items():
                await speaks(tenant, memory, assistant, ear, turn)
        for tenant, ear in ears.items():
            await listens(tenant, memory, assistant, ear)
        for tenant, ear in ears.items():
            for scope in scopes_of(tenant)[::-1]:
                await ear.hear(memory.erase(scope))
    for tenant, ear in ears.items():
        others = [canary_of(other) for other in TENANTS if other != tenant]
        for heard in ear.heard:
            leaked = [bird for bird in others if bird in heard]
            assert not leaked, f"{tenant} was told of {leaked}: {heard[:500]}"
        assert sum(canary_of(tenant) in heard for heard in ear.heard) > 20, f"{tenant} hears nothing"
    return {tenant: len(ear.heard) for tenant, ear in ears.items()}
