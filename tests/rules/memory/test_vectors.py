"""Vectors as bytes: whose they are, unit length, and nothing that is no vector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.errors import EmbedderError
from shipworthy.rules.memory.vectors import TAG, packed, tag_of, unit

FLOATS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8)


@given(FLOATS.filter(any))
def test_a_vector_is_kept_at_length_one_in_its_direction(vector: list[float]) -> None:
    made = np.frombuffer(packed(vector, "m")[TAG:], "<f4").astype(np.float64)
    assert math.isclose(float(made @ made), 1.0, rel_tol=1e-5)
    largest = max(vector, key=abs)
    assert np.allclose(
        made * math.hypot(*[x / largest for x in vector]), [x / largest for x in vector], atol=1e-5
    ) or (
        largest < 0
        and np.allclose(
            -made * math.hypot(*[x / largest for x in vector]), [x / largest for x in vector], atol=1e-5
        )
    )


@pytest.mark.parametrize(
    "vector", [[], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [[1.0, 2.0]], ["a"], None, 3.0, [1.0, None]]
)
def test_what_is_no_vector_is_refused_with_what_to_do(vector: Any) -> None:
    with pytest.raises(EmbedderError, match=r"embedder gave .*Give each text"):
        packed(vector, "m")


def test_the_tag_is_the_embedders() -> None:
    assert packed([3, 4], "one")[:TAG] == tag_of("one") != tag_of("another")
    assert len(tag_of("x" * 1_000)) == len(tag_of("")) == TAG


def test_a_unit_vector_stays_as_it_is() -> None:
    made = unit([3.0, 4.0])
    assert np.array_equal(unit(made), made)
