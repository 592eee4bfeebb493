"""The public names are one list: what is exported, what is resolved at first use, and what type checkers see."""

from __future__ import annotations

import ast
from pathlib import Path

import shipworthy


def test_every_public_name_resolves_and_is_seen_by_checkers() -> None:
    for name in shipworthy.__all__:
        assert getattr(shipworthy, name) is not None
    assert set(shipworthy.__all__) == {*shipworthy._HOME, "InMemoryJournalStore"}
    tree = ast.parse(Path(shipworthy.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {a.asname for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    seen |= {
        t.id for n in block.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    }
    assert seen == set(shipworthy.__all__)
