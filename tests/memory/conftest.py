"""A line of figures for each proof of isolation."""

from __future__ import annotations

from typing import Any

import pytest

_told: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _told.extend([str(line) for name, line in report.user_properties if name == "isolation"])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in _told:
        terminalreporter.write_line(line)
