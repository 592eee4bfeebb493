"""Permissions as a developer writes them down: by mode, by user, by a function, or several together."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from shipworthy.app.configuration import flag_of, sequence_of
from shipworthy.app.threads import in_thread
from shipworthy.domain.policy import Action, Decision, Mode
from shipworthy.domain.scope import Scope
from shipworthy.errors import ConfigurationError
from shipworthy.ports.policy import Policy
from shipworthy.rules.policies.check import sound
from shipworthy.rules.policies.combine import strictest
from shipworthy.rules.policies.digest import digest_of
from shipworthy.rules.policies.modes import Permissions
from shipworthy.rules.policies.wildcards import flaw
from shipworthy.rules.text import described

Answer = Decision | Awaitable[Decision]
Who = str | tuple[str, str]
Chooser = Callable[[Scope], Policy | Awaitable[Policy]]
_POLICIES = (
    "Pass StandardPermissions(...), PerUserPermissions(...), PolicyDocument.load(...), or what @policy made."
)
_REFUSED = "This is not permitted."


class StandardPermissions:
    """Allows, asks or denies by what each tool says that repeating it means.

    *mode*: PLAN allows what changes nothing (`read`) and denies all else. DEFAULT allows `read` and asks for
    `idempotent` and `once`; ACCEPT_EDITS asks for `once` only. BYPASS allows everything. Where a mode asks,
    *allowed_tools* allows by name; *denied_tools* denies by name in every mode, and wins. Names may have `*` in them
    and compare exactly. A call of nested agents is allowed unless its tool or one of them is denied by name.
    Raises ConfigurationError.
    """

    immediate = True

    def __init__(
        self,
        mode: Mode = Mode.DEFAULT,
        allowed_tools: Sequence[str] = (),
        denied_tools: Sequence[str] = (),
    ) -> None:
        if type(mode) is not Mode:
            raise ConfigurationError(
                f"mode={mode!r} is not a Mode.",
                fix="Write a member, such as Mode.PLAN, in code: a text is not taken, so that no environment variable "
                "and no file can turn Mode.BYPASS on.",
            )
        allowed, denied = _names("allowed_tools", allowed_tools), _names("denied_tools", denied_tools)
        if "*" in allowed:
            raise ConfigurationError(
                'allowed_tools has "*", which allows everything.',
                fix="Name the tools, or say what is meant: mode=Mode.BYPASS, which is recorded at each use.",
            )
        self.mode = mode
        self.version = digest_of(["standard", mode.value, sorted(set(allowed)), sorted(set(denied))])
        self._decide = Permissions(mode, allowed, denied).decide

    def decide(self, scope: Scope, action: Action) -> Decision:
        """May this call run?"""
        return self._decide(action)


class PerUserPermissions:
    """To each user a policy of their own.

    *policies*: by user id, or by (tenant, user), which wins. A bare user id means the user of that name **in every
    tenant**: where two customers may each have an "ada", name the tenant too. Whoever is not named, and a run that
    names no user, has *default*, and is denied everything where there is none.

    Or a function of the scope, sync or async, that gives a policy, with a `version=` that changes whenever its answers
    might; if it raises, or gives anything else, the call is denied. Raises ConfigurationError.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy] | Mapping[tuple[str, str], Policy] | Mapping[Who, Policy] | Chooser,
        default: Policy | None = None,
        *,
        version: str | None = None,
    ) -> None:
        self._chooser: Chooser | None = None
        self._policies: dict[Any, Policy] = {}
        self._default = permissions_of(default, "default")
        if isinstance(policies, Mapping):
            named: Mapping[Any, Policy] = policies
            self._policies = {_who(who): _policy(each, f"policies[{who!r}]") for who, each in named.items()}
            self._fix(version)
        elif callable(policies) and not isinstance(policies, type) and not hasattr(policies, "decide"):
            if default is not None:
                raise ConfigurationError(
                    "default= goes with a mapping.", fix="Let the function give it to whoever is not named."
                )
            self._chooser = policies
            self.version = _version(version, "A function that chooses policies")
            self.immediate = inspect.iscoroutinefunction(policies)
        else:
            raise ConfigurationError(
                f"policies is a {type(policies).__name__}.",
                fix='Pass {"ada": StandardPermissions(...)}, or a function of the scope that gives a policy.',
            )

    def _fix(self, version: str | None) -> None:
        """What is known of a mapping once and for all."""
        if version is not None:
            raise ConfigurationError(
                "version= goes with a function.", fix="Leave it out: a mapping has its policies' versions."
            )
        of_each = sorted(
            [[str(type(who)), who, each.version] for who, each in self._policies.items()], key=repr
        )
        self.version = digest_of(["per user", of_each, self._default and self._default.version])
        every = [*self._policies.values(), *([] if self._default is None else [self._default])]
        self.immediate = all([each.immediate for each in every])

    def decide(self, scope: Scope, action: Action) -> Answer:
        """May this call run, as this user's policy says?"""
        if self._chooser is not None:
            return self._chosen(self._chooser, scope, action)
        mine = self._policies.get((scope.tenant, scope.user))
        if mine is None:
            mine = self._policies.get(scope.user, self._default)
        return _UNNAMED if mine is None else mine.decide(scope, action)

    def _chosen(self, chooser: Chooser, scope: Scope, action: Action) -> Answer:
        try:
            given = chooser(scope)
        except Exception as error:
            return _unchosen(f"raised {described(error)}")
        if inspect.isawaitable(given):
            return self._awaited(given, scope, action)
        if _fault(given) is not None:
            return _unchosen(f"gave {_kind(given)}")
        answer: Answer = given.decide(scope, action)
        return answer

    async def _awaited(self, choice: Awaitable[Policy], scope: Scope, action: Action) -> Decision:
        try:
            given = await choice
        except Exception as error:
            return _unchosen(f"raised {described(error)}")
        if _fault(given) is not None:
            return _unchosen(f"gave {_kind(given)}")
        return await _asked(given, scope, action)


_UNNAMED = Decision.deny_(
    "No policy is set for this user.", rule="PerUserPermissions:nobody", tell="This user may do nothing here."
)


def _unchosen(what: str) -> Decision:
    reason = f"The function that chooses this user's policy {what}."
    return Decision.deny_(reason, rule="PerUserPermissions:error", tell=_REFUSED)


class FunctionPolicy:
    """A function `(scope, action) -> Decision`, sync or async, as a policy. Made by `policy`."""

    def __init__(self, function: Callable[[Scope, Action], Answer], version: str, *, immediate: bool) -> None:
        self._function, self.version = function, version
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self.immediate = immediate or inspect.iscoroutinefunction(function)
        self.__doc__ = function.__doc__

    def decide(self, scope: Scope, action: Action) -> Answer:
        """What the function says. Where it names no rule, its own name is the rule."""
        answer = self._function(scope, action)
        return self._awaited(answer) if inspect.isawaitable(answer) else self._ruled(answer)

    async def _awaited(self, answer: Awaitable[Decision]) -> Decision:
        return self._ruled(await answer)

    def _ruled(self, answer: Decision) -> Decision:
        if type(answer) is Decision and answer.rule == "":
            return replace(answer, rule=self.name)
        return answer


def policy(
    *args: Any, version: str | None = None, immediate: bool = False
) -> Callable[[Callable[[Scope, Action], Answer]], FunctionPolicy]:
    """Make a function `(scope, action) -> Decision`, sync or async, a policy: `@policy(version="3")`.

    *version* has to change whenever the function's answers might. One that is not async runs in a thread, unless
    `immediate=True` says that it computes, and neither waits nor reads files. Raises ConfigurationError.
    """
    if args:
        raise ConfigurationError("@policy has no version.", fix='Write @policy(version="1").')
    said, is_immediate = _version(version, "A function as a policy"), flag_of("immediate", immediate)

    def make(function: Callable[[Scope, Action], Answer]) -> FunctionPolicy:
        if not callable(function) or isinstance(function, type):
            raise ConfigurationError(
                f"@policy was given {_kind(function)}.", fix="Write it over a function (scope, action)."
            )
        return FunctionPolicy(function, said, immediate=is_immediate)

    return make


class AllOf:
    """Several policies, of which the strictest wins. Made by `all_of`."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policies = tuple(policies)
        self.version = digest_of(["all of", [each.version for each in policies]])
        self.immediate = all([each.immediate for each in policies])

    def decide(self, scope: Scope, action: Action) -> Answer:
        """Deny if one of them denies, ask if one asks, and allow if all of them do."""
        if not self.immediate:
            return self._awaited(scope, action)
        answers: list[Any] = []
        for each in self._policies:
            answer = each.decide(scope, action.copied())
            if inspect.isawaitable(answer):
                return self._awaited(scope, action, (*answers, answer))
            answers.append(answer)
        return _together(answers)

    async def _awaited(self, scope: Scope, action: Action, begun: Sequence[Any] = ()) -> Decision:
        """One after the other, after those that have begun; the last of these may still be waited for."""
        answers = [await each if inspect.isawaitable(each) else each for each in begun]
        for each in self._policies[len(begun) :]:
            answers.append(await _asked(each, scope, action.copied()))
        return _together(answers)


def all_of(*policies: Policy) -> AllOf:
    """Several policies as one, which allows what all of them allow. Raises ConfigurationError."""
    if not policies:
        raise ConfigurationError("all_of() has no policies.", fix=_POLICIES)
    return AllOf([_policy(each, "all_of") for each in policies])


def _together(answers: Sequence[Any]) -> Decision:
    for each in answers:
        if (wrong := sound(each)) is not None:
            return Decision.deny_(
                f"A policy's answer was not taken: {wrong}.", rule="all_of:error", tell=_REFUSED
            )
    return strictest(answers)


async def _asked(given: Policy, scope: Scope, action: Action) -> Decision:
    """A policy's answer, where nobody is held up by it."""
    if given.immediate:
        answer: Any = given.decide(scope, action)
    else:
        answer = await in_thread(None, given.decide, scope, action)
    decision: Decision = await answer if inspect.isawaitable(answer) else answer
    return decision


# what developers hand in


def permissions_of(given: Any, name: str = "permissions") -> Policy | None:
    """What `Agent(permissions=)` takes: a Policy or None. Raises ConfigurationError."""
    return None if given is None else _policy(given, name)


def _policy(given: Any, name: str) -> Policy:
    fault = _fault(given)
    if fault is None:
        checked: Policy = given
        return checked
    if isinstance(given, Mode):
        fix = f"Pass StandardPermissions({given})."
    elif isinstance(given, (list, tuple)):
        fix = "Pass all_of(one, another): the strictest wins."
    elif callable(given) and not isinstance(given, type) and not hasattr(given, "decide"):
        fix = (
            'Write @policy(version="1") over the function, and change the version whenever its answers might.'
        )
    else:
        fix = _POLICIES
    raise ConfigurationError(f"{name} is no policy: {fault}.", fix=fix)


def _fault(given: Any) -> str | None:
    """What keeps this from being a policy, in words."""
    if isinstance(given, type):
        return f"it is the class {given.__name__}"
    if not callable(getattr(given, "decide", None)):
        return f"{_kind(given)} has no decide(scope, action)"
    version = getattr(given, "version", None)
    if not isinstance(version, str) or not version.strip():
        return f"its version is {version!r}, not a text that changes whenever its answers might"
    if not isinstance(getattr(given, "immediate", None), bool):
        return "its immediate is neither True nor False"
    return None


def _kind(given: Any) -> str:
    return "None" if given is None else f"a {type(given).__name__}"


def _version(version: Any, of: str) -> str:
    if not isinstance(version, str) or not version.strip():
        raise ConfigurationError(
            f"{of} needs a version=.", fix='Pass version="1", and change it whenever its answers might.'
        )
    return version


def _who(given: Any) -> Who:
    names = given if isinstance(given, tuple) and len(given) == 2 else (given,)
    if not all([isinstance(each, str) and each.strip() for each in names]):
        raise ConfigurationError(
            f"policies has {given!r}, which names nobody.", fix='Use "user", or ("tenant", "user").'
        )
    return given  # type: ignore[no-any-return]


def _names(field: str, given: Any) -> tuple[str, ...]:
    names: tuple[Any, ...] = sequence_of(field, given)
    for each in names:
        if (wrong := flaw(each)) is not None:
            raise ConfigurationError(
                f"{field}: {each!r} {wrong}.",
                fix='Write names of tools; "crm_*" are those that begin with crm_.',
            )
    return names
