"""Policy documents: from code, from TOML or from JSON, checked and compiled when they are made."""

from __future__ import annotations

import datetime
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from shipworthy.domain.policy import Action, Decision
from shipworthy.domain.scope import Scope
from shipworthy.engine.windows import is_zone
from shipworthy.errors import ConfigurationError
from shipworthy.rules.policies.digest import digest_of
from shipworthy.rules.policies.document import compiled
from shipworthy.rules.policies.statements import Explanation, Statement

Format = Literal["toml", "json"]
_KEYS = ("version", "statements")
_FIX = "Write version (if you like) and [[statements]], each with effect and actions."


class PolicyDocument:
    """Statements that allow, deny or ask, as a policy. A deny wins, then asks, then allows; what no statement matches
    is denied.

    A condition, or a principal, that cannot be told (an argument that is missing or of another type, a run that names
    no user) never helps: an allow does not match then, a deny and an ask do. Names compare exactly, character by
    character: no case is folded and no Unicode normalised, so that a deny by name is evaded by another spelling of what
    the tool takes for the same; allow what is right rather than deny what is wrong. `*` is any text, also an empty one;
    in the value of a variable such as `${user}` it is a character like others.

    *version*: a text of your own; a digest of the statements is part of the version anyway. Raises ConfigurationError
    that names statement, key and fix.
    """

    immediate = True

    def __init__(
        self, statements: Sequence[Statement | Mapping[str, Any]], *, version: str | None = None
    ) -> None:
        self._document = compiled(statements, _CALENDAR)
        if version is not None and (not isinstance(version, str) or not version.strip()):
            raise ConfigurationError(
                f"The policy document, version: {version!r} is no text.",
                fix='Write version = "1", or leave it out.',
            )
        digest = digest_of([_plain(each) for each in statements])
        self.version = digest if version is None else f"{version}+{digest}"

    def __len__(self) -> int:
        return len(self._document.statements)

    def __bool__(self) -> bool:
        return True

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PolicyDocument:
        """The document in a file that ends with .toml or .json. Raises ConfigurationError."""
        place = Path(path)
        format = place.suffix.removeprefix(".")
        if format not in ("toml", "json"):
            raise ConfigurationError(
                f"{place} is neither .toml nor .json.", fix="Name the file by what it is."
            )
        try:
            text = place.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            why = (
                "is not UTF-8"
                if isinstance(error, UnicodeDecodeError)
                else f"cannot be read ({error.strerror})"
            )
            raise ConfigurationError(f"{place} {why}.", fix="Name a file of UTF-8 text.") from None
        try:
            return cls.loads(text, "toml" if format == "toml" else "json")
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error.what}", fix=error.fix) from None

    @classmethod
    def loads(cls, text: str, format: Format = "toml") -> PolicyDocument:
        """The document that is written in *text*. Raises ConfigurationError."""
        if format not in ("toml", "json"):
            raise ConfigurationError(f"format={format!r} is unknown.", fix='Use "toml" or "json".')
        try:
            given = tomllib.loads(text) if format == "toml" else _json(text)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"The policy document is no valid {format.upper()}: {error}.",
                fix="Correct what is written there.",
            ) from None
        if not isinstance(given, dict):
            raise ConfigurationError("The policy document is no table.", fix=_FIX)
        for key in given:
            if key not in _KEYS:
                raise ConfigurationError(f"The policy document: {key!r} is unknown.", fix=_FIX)
        return cls(given.get("statements", []), version=given.get("version"))

    def decide(self, scope: Scope, action: Action) -> Decision:
        """May this call run?"""
        return self._document.decide(scope, action)

    def explain(self, scope: Scope, action: Action) -> Explanation:
        """Which statements decide a call, which others match, and what keeps the others about it from doing so."""
        return self._document.explain(scope, action)


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose keys is written once: of two, people and programs may read another one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"a key is written twice: {next(name for name in names if names.count(name) > 1)!r}")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _plain(statement: Statement | Mapping[str, Any]) -> Any:
    """A statement as data: the same, however it was written down."""
    given = statement if isinstance(statement, Statement) else Statement(**statement)
    return msgspec.to_builtins(given)


class _Calendar:
    """Times by the clocks of a zone."""

    def knows(self, zone: Any) -> bool:
        return isinstance(zone, str) and is_zone(zone)

    def local(self, at: int, zone: str) -> tuple[int, int]:
        return _local(at // 60_000, zone)

    def moment(self, value: Any, zone: str) -> int | None:
        try:
            if isinstance(value, str):
                value = datetime.datetime.fromisoformat(value)
            elif type(value) is datetime.date:
                value = datetime.datetime(value.year, value.month, value.day)
            if not isinstance(value, datetime.datetime):
                return None
            known = value if value.tzinfo is not None else value.replace(tzinfo=ZoneInfo(zone))
            return int(known.timestamp() * 1000)
        except (ValueError, OverflowError, OSError):
            return None


@lru_cache(maxsize=256)
def _local(minute: int, zone: str) -> tuple[int, int]:
    """What the clocks show in one minute since the epoch: they are set between minutes."""
    there = datetime.datetime.fromtimestamp(minute * 60, ZoneInfo(zone))
    return there.weekday(), there.hour * 60 + there.minute


_CALENDAR = _Calendar()
