"""A session's conversation: its ended runs in the order of their ends, read from their journals once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from shipworthy.domain.messages import MEMORY, Message
from shipworthy.domain.scope import Scope
from shipworthy.engine.bodies import Bodies
from shipworthy.errors import RunNotFound
from shipworthy.ports.store import Store
from shipworthy.rules.state import replay

KEPT = 256
"""Conversations that are kept in memory, those that were used last."""


class Conversations:
    """The latest conversations of a store. What is kept is extended by the runs that ended since; it is dropped when
    the session no longer begins with the runs that it was made of."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Scope, tuple[list[str], list[Message]]] = OrderedDict()

    async def of(self, store: Store, scope: Scope) -> tuple[int, tuple[Message, ...]]:
        """How many ended runs the session has, and their conversation."""
        run_ids = list(await store.session(scope))
        known, messages = self._kept.get(scope, ([], []))
        if run_ids[: len(known)] != known:
            known, messages = [], []
        new = run_ids[len(known) :]
        conversation = [*messages, *await read(store, scope, new)] if new else messages
        self._kept[scope] = run_ids, conversation
        self._kept.move_to_end(scope)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return len(run_ids), tuple(conversation)

    def forget(self, scope: Scope) -> None:
        """Keep nothing of the scope's session, or of those of its user, or of its tenant."""
        for each in list(self._kept):
            wide = (each.tenant, each.user if scope.user else None, each.session if scope.session else None)
            if wide == (scope.tenant, scope.user, scope.session):
                self._kept.pop(each, None)


async def read(store: Store, scope: Scope, run_ids: Sequence[str]) -> list[Message]:
    """What these runs said, from their journals. One that was pruned meanwhile says nothing any more."""
    messages: list[Message] = []
    for run_id in run_ids:
        try:
            state = replay(await store.read(scope, run_id))
        except RunNotFound:
            continue
        bodies = Bodies(partial(store.body, scope, run_id), used=True)
        messages.extend([await bodies.message(without_memory(message)) for message in state.messages])
    return messages


def without_memory(message: Message) -> Message:
    """A message without what memory gave to the run that it was in: the next run is given its own."""
    if message.role != "user" or not any([part.origin == MEMORY for part in message.parts]):
        return message
    return Message(message.role, tuple([part for part in message.parts if part.origin != MEMORY]))
