"""The guide's tables are those of the code: every action that can be entered, every verdict."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from shipworthy.domain.audit import Verdict

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "audit.md"
_ACTION = re.compile(r'"([a-z]+\.[a-z_]+)"')
_ENTERED = re.compile(
    r'(?:\b(?:note|enter|done|beside)\(\s*|^    BEGUN, ROTATED = |^BEGUN, ROTATED = )((?:"[a-z]+\.[a-z_]+"(?:, )?)+)',
    re.M,
)


def actions() -> set[str]:
    """What is entered: each action of rules/audit/entries.py, and what is entered beside any run."""
    found = set(_ACTION.findall((ROOT / "shipworthy/rules/audit/entries.py").read_text()))
    for path in (ROOT / "shipworthy").rglob("*.py"):
        for said in _ENTERED.findall(path.read_text()):
            found |= set(_ACTION.findall(said))
    return found


def table(text: str, heading: str) -> set[str]:
    """The first cells of the table under a heading."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([a-z_.]+)` \|", section, re.M))


def test_every_action_is_in_the_guide() -> None:
    text = GUIDE.read_text()
    assert {"log.begun", "keys.rotated", "tool.attempted", "person.erased", "budget.reset"} <= actions()
    assert table(text, "What is in it") == actions()
    assert table(text.replace("| `tool.denied` |", "| tool |"), "What is in it") != actions()


def test_every_verdict_is_in_the_guide() -> None:
    assert table(GUIDE.read_text(), "Verifying") == set(get_args(Verdict))
