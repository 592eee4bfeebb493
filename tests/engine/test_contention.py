"""The order of those who wait: a tenant's by coming, the tenants in turn, and nobody in a circle."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shipworthy.engine import contention
from shipworthy.engine.contention import Line, Place, Places, Waiting
from tests.engine.world import go


def served(waiting: Waiting, key: str, most: int = 1000) -> list[Place]:
    """Everybody before *key* by turns, each leaving when it is first."""
    order: list[Place] = []
    while key in waiting and len(order) < most:
        (first,) = [line.first for line in [waiting._lines[key]]]
        assert first is not None
        order.append(first)
        first.leave()
    return order


def a_tenants_places_come_in_their_order() -> None:
    waiting = Waiting()
    places = [waiting.join("k", "acme") for _ in range(5)]
    assert served(waiting, "k") == places


def tenants_take_turns() -> None:
    """However many of one tenant wait, another one's first comes after at most one of them, and so does its next."""
    waiting = Waiting()
    for _ in range(200):
        waiting.join("k", "noisy")
    quiet = [waiting.join("k", "quiet") for _ in range(2)]
    order = served(waiting, "k")
    assert [order.index(place) for place in quiet] == [1, 3]
    assert len(order) == 202


def who_leaves_without_a_turn_takes_nobody_elses() -> None:
    """Of those that wait further back some go: the first stays first, the others keep their order."""
    waiting = Waiting()
    places = [waiting.join("k", tenant) for tenant in "aabbcc"]
    first = places[0]
    for gone in (1, 2):
        places[gone].leave()
    assert first.is_first
    assert served(waiting, "k") == [places[0], places[3], places[4], places[5]]
    assert not waiting


def the_next_is_woken_when_the_first_leaves() -> None:
    async def law() -> None:
        waiting = Waiting()
        first, second = waiting.join("k", "acme"), waiting.join("k", "acme")
        turn = asyncio.create_task(second.turn())
        await asyncio.sleep(0)
        first.leave()
        await asyncio.wait_for(turn, 0.2)
        second.leave()

    go(law())


def news_that_came_while_the_ledger_was_asked_are_not_lost() -> None:
    """What is given back between a refusal and the waiting for it is known at once."""

    async def law() -> None:
        waiting = Waiting()
        place = waiting.join("k", "acme")
        waiting.wake(["k"])
        await asyncio.wait_for(place.news(60), 0.2)

    go(law())


def only_who_is_concerned_is_woken() -> None:
    async def law() -> None:
        waiting = Waiting()
        places = [waiting.join(f"k{n}", "acme") for n in range(100)]
        tasks = [asyncio.create_task(place.news(60)) for place in places]
        await asyncio.sleep(0)
        waiting.wake(["k7", "nobody's"])
        for _ in range(5):
            await asyncio.sleep(0)
        woken = [n for n, task in enumerate(tasks) if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert woken == [7]

    go(law())


def who_has_no_room_of_its_own_is_in_nobodys_way() -> None:
    """Refused before a narrow key, it gives up its turn before a wide one."""
    waiting = Waiting()
    narrow, wide = ["user", "model"], ["model"]
    one, other = Places(waiting, "a"), Places(waiting, "b")
    assert one.back(narrow, "model") is None
    assert other.behind(wide) is not None
    one.back(narrow, "user")
    assert other.behind(wide) is None
    assert one.behind(narrow) is not None  # and comes back behind it


def a_place_before_a_window_that_is_over_is_given_up() -> None:
    waiting = Waiting()
    one, other = Places(waiting, "a"), Places(waiting, "a")
    one.back(["monday"], "monday")
    assert other.behind(["monday"]) is not None
    assert one.behind(["tuesday"]) is None
    assert other.behind(["tuesday"]) is None
    assert not waiting


def nobody_waits_in_a_circle() -> None:
    """Runs that draw on keys of their own choice, refused now here and now there by chance, all come through."""
    for seed in range(30):
        chance = random.Random(seed)
        waiting = Waiting()
        runs = [(Places(waiting, chance.choice("abc")), _some_keys(chance)) for _ in range(12)]
        for _ in range(5000):
            ready = [(places, keys) for places, keys in runs if places.behind(keys) is None]
            if not ready:
                break
            places, keys = chance.choice(ready)
            if chance.random() < 0.4:
                places.leave()
                runs.remove((places, keys))
            else:
                places.back(keys, chance.choice(keys))
            if not runs:
                break
        assert not runs, f"seed {seed}: {len(runs)} runs wait for each other"
        assert not waiting


def _some_keys(chance: random.Random) -> list[str]:
    return [key for key in ("1 user", "2 tenant", "3 model", "4 global") if chance.random() < 0.7] or [
        "4 global"
    ]


LAWS: list[Callable[[], None]] = [
    a_tenants_places_come_in_their_order,
    tenants_take_turns,
    who_leaves_without_a_turn_takes_nobody_elses,
    the_next_is_woken_when_the_first_leaves,
    news_that_came_while_the_ledger_was_asked_are_not_lost,
    only_who_is_concerned_is_woken,
    who_has_no_room_of_its_own_is_in_nobodys_way,
    a_place_before_a_window_that_is_over_is_given_up,
    nobody_waits_in_a_circle,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_order(law: Callable[[], None]) -> None:
    law()


# mutants


def _first_come_over_all_tenants(patch: pytest.MonkeyPatch) -> None:
    join = Line.join

    def joined(self: Line, tenant: str) -> Place:
        place = join(self, "everybody")
        place.tenant = "everybody"
        return place

    patch.setattr(Line, "join", joined)


def _last_come_first(patch: pytest.MonkeyPatch) -> None:
    class Stack(deque[Any]):
        def append(self, item: Any) -> None:
            self.insert(1 if self else 0, item)

    patch.setattr(contention, "deque", Stack)


def _whoever_leaves_takes_the_tenants_turn(patch: pytest.MonkeyPatch) -> None:
    leave = Line.leave

    def left(self: Line, place: Place) -> None:
        leave(self, place)
        if place.tenant in self._tenants:
            self._tenants.move_to_end(place.tenant)

    patch.setattr(Line, "leave", left)


def _nobody_is_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Place, "wake", lambda self: None)


def _news_are_for_who_waits_already(patch: pytest.MonkeyPatch) -> None:
    def wake(self: Place) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    patch.setattr(Place, "wake", wake)


def _everybody_is_woken(patch: pytest.MonkeyPatch) -> None:
    def wake(self: Waiting, keys: Any) -> None:
        for line in self._lines.values():
            if line.first is not None:
                line.first.wake()

    patch.setattr(Waiting, "wake", wake)


def _wider_places_are_kept(patch: pytest.MonkeyPatch) -> None:
    def back(self: Places, keys: Any, key: str) -> Place | None:
        place = self._held.get(key)
        if place is None:
            self._held[key] = self._waiting.join(key, self._tenant)
        return place

    patch.setattr(Places, "back", back)


def _narrower_places_are_taken_late(patch: pytest.MonkeyPatch) -> None:
    def behind(self: Places, keys: Any) -> Place | None:
        for key in keys:
            place = self._held.get(key)
            if place is None and key in self._waiting:
                place = self._held[key] = self._waiting.join(key, self._tenant)
            if place is not None and not place.is_first:
                return place
        return None

    patch.setattr(Places, "behind", behind)


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (_first_come_over_all_tenants, tenants_take_turns),
    (_last_come_first, a_tenants_places_come_in_their_order),
    (_whoever_leaves_takes_the_tenants_turn, who_leaves_without_a_turn_takes_nobody_elses),
    (_nobody_is_told, the_next_is_woken_when_the_first_leaves),
    (_news_are_for_who_waits_already, news_that_came_while_the_ledger_was_asked_are_not_lost),
    (_everybody_is_woken, only_who_is_concerned_is_woken),
    (_wider_places_are_kept, who_has_no_room_of_its_own_is_in_nobodys_way),
    (_narrower_places_are_taken_late, a_place_before_a_window_that_is_over_is_given_up),
    (_narrower_places_are_taken_late, nobody_waits_in_a_circle),
]


@contextmanager
def _broken(by: Callable[[pytest.MonkeyPatch], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        by(patch)
        yield


@pytest.mark.parametrize(("mutant", "law"), MUTANTS, ids=lambda each: each.__name__)
def test_a_mutant_is_caught(mutant: Callable[[pytest.MonkeyPatch], None], law: Callable[[], None]) -> None:
    with _broken(mutant), pytest.raises((AssertionError, TimeoutError)):
        law()
