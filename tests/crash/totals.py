"""What the proofs of one folder count, added up over all the processes that pytest uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.crash import proof


class Totals:
    """Figures of the tests of the proof called *name*; that folder's conftest hands it what pytest says."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._figures = proof.Figures()
        self._seen = 0

    def count(self, request: pytest.FixtureRequest) -> Iterator[proof.Figures]:
        """What this test counts. That of a test of a mutant, whose violations are wanted, is left out."""
        proof.figures = proof.Figures()
        yield proof.figures
        if getattr(request.module, "COUNTED", True):
            request.node.user_properties.append((self._name, msgspec.to_builtins(proof.figures)))

    def add(self, report: pytest.TestReport) -> None:
        """A test's report, from whichever process."""
        for name, value in report.user_properties if report.when == "teardown" else ():
            if name == self._name and isinstance(value, dict):
                self._figures.add(msgspec.convert(value, proof.Figures))
                self._seen += 1

    def tell(self, reporter: Any) -> None:
        """A line at the end."""
        if self._seen:
            form, all_ = "long" if proof.LONG else "short", self._figures
            reporter.write_line(
                f"{self._name} proof ({form} form): {all_.points} points, {all_.kills} kills, "
                f"{all_.lost} lost, {all_.repeated} repeated, {all_.invalid} invalid; seed {proof.SEED}"
            )
