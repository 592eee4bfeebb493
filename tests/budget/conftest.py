"""A line of figures for each proof, and the process that the workers are forked from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.budget import proof

_told: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def zygote() -> Iterator[None]:
    """The process that the workers of this one are forked from."""
    yield
    proof.end_zygote()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _told.extend(
        [str(line) for name, line in report.user_properties if name == "budget" and report.when == "call"]
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in _told:
        terminalreporter.write_line(line)
    if _told:
        terminalreporter.write_line(
            f"budget proofs: {'long' if proof.LONG else 'short'} form, seed {proof.SEED}"
        )
