"""Each law holds in memory and on SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nested.world import World


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(tmp_path / "runs.db" if request.param == "sqlite" else None)


@pytest.fixture(params=["run", "stream"])
def how(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value
