"""Whether what a policy gave can be taken at its word. What cannot is a deny."""

from __future__ import annotations

from typing import Any

from shipworthy.domain.policy import Decision

MOST_APPROVERS = 100
_RULINGS = ("allow", "deny", "ask")


def sound(value: Any) -> str | None:
    """What is wrong with a policy's answer, in words; None if it is exactly a Decision that means something."""
    if type(value) is not Decision:
        return f"a {type(value).__name__} was given, not a Decision"
    if type(value.ruling) is not str or value.ruling not in _RULINGS:
        return "its ruling is none of allow, deny and ask"
    for name, text in (("reason", value.reason), ("rule", value.rule), ("tell", value.tell)):
        if not (_is_text(text) or (text is None and name == "tell")):
            return f"its {name} is no valid text"
    if value.approvers == 1 and value.among == ():
        return (
            None if type(value.approvers) is int and type(value.among) is tuple else "its approvers are odd"
        )
    return _approvers(value.approvers, value.among)


def _approvers(approvers: Any, among: Any) -> str | None:
    if type(approvers) is not int or not 1 <= approvers <= MOST_APPROVERS:
        return f"its approvers are no int from 1 to {MOST_APPROVERS}"
    if type(among) is not tuple or not all([_is_text(name) and name.strip() for name in among]):
        return "its among is no tuple of names"
    if among and len(set(among)) < approvers:
        return f"its among has {len(set(among))} people, and it wants {approvers}"
    return None


def _is_text(value: Any) -> bool:
    """Whether this is a text that a journal takes."""
    if type(value) is not str:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
