"""A policy: who may do what."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from shipworthy.domain.policy import Action, Decision
from shipworthy.domain.scope import Scope


class Policy(Protocol):
    """Says of each call whether it may run. Whatever it raises, or gives that is no Decision, is a deny; so is an
    answer that takes too long.

    `version` changes whenever its answers might. `immediate`: `decide` computes and does nothing else, so that it may
    be called on the event loop; others run where they hold nobody up.
    """

    @property
    def version(self) -> str: ...

    @property
    def immediate(self) -> bool: ...

    def decide(self, scope: Scope, action: Action) -> Decision | Awaitable[Decision]:
        """May this call run, for this identity?"""
        ...
