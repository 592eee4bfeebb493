"""Names with `*` in them. A pattern is anchored at both ends; characters compare exactly, without folding of case and
without normalisation of Unicode; matching takes time that grows with the text, whatever the pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence


def flaw(pattern: object) -> str | None:
    """What is wrong with a pattern, in words."""
    if not isinstance(pattern, str):
        return f"is a {type(pattern).__name__}, not a text"
    if not pattern.strip():
        return "is blank"
    return "has ** in it, which means no more than *" if "**" in pattern else None


def matches(pattern: str, text: str) -> bool:
    """Whether *text* is what *pattern* describes, from its first character to its last."""
    return is_made_of(pattern.split("*"), text)


def is_made_of(parts: Sequence[str], text: str) -> bool:
    """Whether *text* has these parts in this order, begins with the first one and ends with the last."""
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return text == first
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in parts[1:-1]:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def any_of(patterns: Iterable[str]) -> Callable[[str], bool]:
    """A function that says whether a text is described by one of them."""
    given = list(dict.fromkeys(patterns))
    names = frozenset([each for each in given if "*" not in each])
    if "*" in given:
        return lambda text: True
    split = [each.split("*") for each in given if "*" in each]
    if not split:
        return names.__contains__
    if len(given) == 1:
        [parts] = split
        return lambda text: is_made_of(parts, text)
    return lambda text: text in names or any([is_made_of(parts, text) for parts in split])
