"""Every anchor keeps the laws of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipworthy.adapters.anchors.file import FileAnchor
from shipworthy.adapters.inmemory.anchor import InMemoryAnchor
from shipworthy.ports.anchors import Anchor
from shipworthy.testing.contracts.anchors import LAWS, Anchors, Law, check, name


class InMemory(Anchors):
    """One anchor for all: there is no other process."""

    def __init__(self, anchor: Anchor | None = None) -> None:
        super().__init__()
        self._anchor = anchor or InMemoryAnchor()

    def make(self) -> Anchor:
        return self._anchor


class InFile(Anchors):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make(self) -> Anchor:
        return FileAnchor(self._path)


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_an_anchor_in_memory(law: Law) -> None:
    check(law, InMemory())


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_a_file_anchor(law: Law, tmp_path: Path) -> None:
    check(law, InFile(tmp_path / "anchor"))
