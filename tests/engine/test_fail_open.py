"""Whoever may object and is odd has objected: nothing runs, whatever went wrong, and the run goes on with a denial."""

from __future__ import annotations

import pytest

from tests.engine import control_world as w
from tests.engine.world import go


@pytest.fixture(autouse=True)
def released() -> object:
    """Threads that hang end with their test."""
    w.RELEASE.clear()
    yield
    w.RELEASE.set()


@pytest.mark.parametrize("place", w.PLACES, ids=str)
def test_where_nobody_objects_the_same_wiring_runs_the_tools(place: w.Place) -> None:
    for consent in place.consents:
        hunted = go(w.hunt(place, w.giving(consent)(place)))

        assert hunted.ended == []
        assert hunted.bodies.ran == {"look": 2, "put": 2, "pay": 2}
        assert [w.words(result).count(w.SECRET) for result in hunted.results] == [3, 3]


@pytest.mark.parametrize(("place", "odd"), w.hunts(), ids=str)
def test_whoever_is_odd_has_objected(place: w.Place, odd: w.Odd) -> None:
    if odd.ends is not None:
        bodies = w.Bodies()
        with pytest.raises(odd.ends):
            go(w.finish(place.agent(odd.make(place), bodies)))
        assert not bodies.ran or place.name == "after_tool"
        return

    assert w.escaped(place, go(w.hunt(place, odd.make(place), tuning=w.HURRY))) == []
