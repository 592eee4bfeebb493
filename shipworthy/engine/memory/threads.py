"""Threads for what would hold up the event loop. A process that is forked has its own: threads do not live on in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Given = TypeVarTuple("Given")


class Threads:
    """Some threads of this process."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix=f"shipworthy-{self._name}")

    async def run(self, work: Callable[[Unpack[Given]], T], *given: *Given) -> T:
        """What *work* gives, done on one of them."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *given)
