"""Places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.servers.postgres import a_database


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Where a run's journal and DBOS's tables are."""
    if request.param == "sqlite":
        yield tmp_path
    else:
        with a_database() as dsn:
            yield dsn
