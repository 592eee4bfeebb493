"""Figures of the proofs, and the process that their children are forked from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.crash.proof import Figures
from tests.crash.totals import Totals
from tests.memory.crash import proof

_totals = Totals("memory")


@pytest.fixture(autouse=True)
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """What this test counts."""
    yield from _totals.count(request)


@pytest.fixture(scope="session", autouse=True)
def zygote() -> Iterator[None]:
    """The process that the children of this one are forked from."""
    yield
    proof.end_zygote()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _totals.add(report)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    _totals.tell(terminalreporter)
