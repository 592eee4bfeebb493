"""Figures of the proofs, added up over all the processes that pytest uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.crash import proof

_total = proof.Figures()
_seen = 0


@pytest.fixture(autouse=True)
def figures(request: pytest.FixtureRequest) -> Iterator[proof.Figures]:
    """What this test counts. That of a test of a mutant, whose violations are wanted, is left out."""
    proof.figures = proof.Figures()
    yield proof.figures
    if getattr(request.module, "COUNTED", True):
        request.node.user_properties.append(("crash", msgspec.to_builtins(proof.figures)))


@pytest.fixture(scope="session", autouse=True)
def zygote() -> Iterator[None]:
    """The process that the children of this one are forked from."""
    yield
    proof.end_zygote()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global _seen
    for name, value in report.user_properties if report.when == "teardown" else ():
        if name == "crash" and isinstance(value, dict):
            _total.add(msgspec.convert(value, proof.Figures))
            _seen += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _seen:
        terminalreporter.write_line(
            f"crash proof ({'long' if proof.LONG else 'short'} form): {_total.points} points, {_total.kills} kills, "
            f"{_total.lost} lost, {_total.repeated} repeated, {_total.invalid} invalid; seed {proof.SEED}"
        )
