"""Several policies, one answer: the strictest wins, so that adding a policy never allows more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shipworthy.domain.policy import Decision


def strictest(decisions: Sequence[Decision]) -> Decision:
    """What holds of sound decisions, from the outermost policy's to the innermost one's: deny > ask > allow.

    The first deny is it. Of several asks: the most approvers that one of them wants, among those whom all of them name;
    a deny where they are too few. Nobody objects if there are no decisions.
    """
    if len(decisions) == 1:
        return decisions[0]
    asks: list[Decision] = []
    for each in decisions:
        if each.ruling == "deny":
            return each
        if each.ruling == "ask":
            asks.append(each)
        elif each.ruling != "allow":
            return Decision.deny_(f"A policy ruled {each.ruling!r}, which is no ruling.", rule="unsound")
    if not asks:
        return Decision("allow", _joined("; ", decisions, "reason"), _joined(" & ", decisions, "rule"))
    return asks[0] if len(asks) == 1 else _together(asks)


def _together(asks: Sequence[Decision]) -> Decision:
    rule, reason = _joined(" & ", asks, "rule"), _joined("; ", asks, "reason")
    tell = next((ask.tell for ask in asks if ask.tell is not None), None)
    approvers = max([ask.approvers for ask in asks])
    limits = [ask.among for ask in asks if ask.among]
    among = _in_all(limits)
    if limits and len(among) < approvers:
        nobody = f"too few people may approve for all who ask ({len(among)} of {approvers})"
        return Decision("deny", f"{reason}; {nobody}" if reason else nobody, rule, tell)
    return Decision("ask", reason, rule, tell, approvers, among)


def _in_all(limits: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Each name that all of them have, once, in the order of the first."""
    first, *others = [*limits] or [()]
    return tuple([name for name in dict.fromkeys(first) if all([name in other for other in others])])


def _joined(between: str, decisions: Iterable[Decision], field: str) -> str:
    return between.join([text for each in decisions if (text := getattr(each, field))])
