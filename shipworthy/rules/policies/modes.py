"""What StandardPermissions says: by mode, by the effect that a tool declares, and by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shipworthy.domain.effects import Effect
from shipworthy.domain.policy import Action, Decision, Mode
from shipworthy.rules.policies.wildcards import any_of

_NAME = "StandardPermissions"
_EFFECTS: tuple[Effect, ...] = ("read", "idempotent", "once")
_ALLOWED: Mapping[Mode, tuple[Effect, ...]] = {
    Mode.PLAN: ("read",),
    Mode.DEFAULT: ("read",),
    Mode.ACCEPT_EDITS: ("read", "idempotent"),
    Mode.BYPASS: _EFFECTS,
}
_WHY = {"idempotent": "changes something", "once": "does what must not happen twice"}
_BY_NAME = Decision.deny_("This tool is denied by name.", rule=f"{_NAME}:denied-by-name")
_AGENT = Decision.allow_(rule=f"{_NAME}:agent")
_UNKNOWN = Decision.deny_("Nothing is known of what this call does.", rule=f"{_NAME}:unknown-effect")


class Permissions:
    """The rules of one mode and its names, each answer made once."""

    def __init__(self, mode: Mode, allowed: Sequence[str], denied: Sequence[str]) -> None:
        self._is_allowed, self._is_denied = any_of(allowed), any_of(denied)
        self._by_effect = {effect: _by_effect(mode, effect) for effect in _EFFECTS}
        self._allowed = Decision.allow_(rule=f"{_NAME}:{mode.value}:allowed-by-name")

    def decide(self, action: Action) -> Decision:
        """Denied names first; then what the mode says of the effect, where a name may turn an ask into an allow."""
        if self._is_denied(action.name):
            return _BY_NAME
        if action.kind == "agent":  # changes nothing by itself: its own calls are judged
            return _AGENT
        decision = self._by_effect.get(action.effect, _UNKNOWN)
        if decision.ruling == "ask" and self._is_allowed(action.name):
            return self._allowed
        return decision


def _by_effect(mode: Mode, effect: Effect) -> Decision:
    if mode is Mode.BYPASS:
        return Decision.allow_(rule=f"{_NAME}:bypass")
    rule = f"{_NAME}:{mode.value}"
    if effect in _ALLOWED[mode]:
        return Decision.allow_(rule=f"{rule}:{effect}")
    if mode is Mode.PLAN:
        reason = f"This is for planning: only tools that change nothing may run, and this one {_WHY[effect]}."
        return Decision.deny_(reason, rule=f"{rule}:deny-{effect}")
    return Decision.ask_(f"This tool {_WHY[effect]}.", rule=f"{rule}:ask-{effect}")
