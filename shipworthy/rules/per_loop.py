"""One value per event loop: connections belong to the loop that opened them. Knows loops only as keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Loop(Protocol):
    """What is asked of an event loop."""

    def is_closed(self) -> bool: ...


class PerLoop(Generic[T]):
    """The values of the loops that are open. Those of closed loops are forgotten: nothing can close them."""

    def __init__(self) -> None:
        self._values: dict[Loop, T] = {}

    def get(self, loop: Loop, make: Callable[[], T]) -> T:
        """The loop's value, made at its first use."""
        value = self._values.get(loop)
        if value is None:
            for other in [other for other in self._values if other.is_closed()]:
                self._values.pop(other, None)
            value = self._values[loop] = make()
        return value

    def take(self, loop: Loop) -> T | None:
        """The loop's value, if it has one, which is then the caller's to close."""
        return self._values.pop(loop, None)
