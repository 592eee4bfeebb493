"""What a developer writes down, checked and made into values when the agent is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shipworthy.domain.model import ModelSettings
from shipworthy.engine.blueprint import Instruction, Limits
from shipworthy.errors import ConfigurationError
from shipworthy.ports.model import Model
from shipworthy.rules.learning import SUFFIX as LEARNER
from shipworthy.rules.text import clean
from shipworthy.rules.values import misfit


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that few change.

    `tool_timeout`: seconds for tools that set none. `max_result`: characters of a tool's result that the model is
    shown. `output_retries`: how often an invalid output is asked for again. `model_retries`: how often in a row a
    failed attempt on the wire is made again, where that can help. `recover_every`: seconds between two looks for
    orphaned runs while the agent is entered (`async with agent`). `policy_timeout`: seconds that a policy or a hook
    may take, and `approval_timeout` that an approval handler may; one that takes longer has denied. `wait_for_paused`:
    refuse a new message of a session while a run of it is paused; otherwise a paused run holds nobody up.
    `memory_timeout`: seconds that memory may take at the beginning and at the end of a run. `auto_consolidate`: have
    `agent.consolidate()` done by itself for whoever was learned of, while the agent is entered.
    """

    tool_timeout: float = 60.0
    max_result: int = 50_000
    output_retries: int = 2
    model_retries: int = 2
    recover_every: float = 10.0
    policy_timeout: float = 5.0
    approval_timeout: float = 300.0
    wait_for_paused: bool = False
    memory_timeout: float = 10.0
    auto_consolidate: bool = False


MOST_TOKENS = 10**9
"""Tokens that an answer may be asked to have at most: more than any model gives."""

LONGEST = 366 * 86_400
"""Seconds that a timeout may have at most: a year."""

NO_TUNING = Tuning()
NO_SETTINGS = ModelSettings()
_LIMITS = Limits()


def model_of(given: Model | str) -> Model:
    """A model from 'provider:model', or the model itself. Raises UnknownModel, MissingExtra, MissingKey."""
    if isinstance(given, str):
        from shipworthy.app.models import resolve_model

        return resolve_model(given)
    if isinstance(given, type) or not hasattr(given, "stream") or not hasattr(given, "name"):
        raise ConfigurationError(f"{given!r} is not a model.", fix="Pass 'provider:model' or a Model object.")
    return given


def instructions_of(given: Instruction | Sequence[Instruction]) -> tuple[Instruction, ...]:
    """Instructions as a tuple of texts and functions. Raises ConfigurationError."""
    if isinstance(given, str) or callable(given):
        return (given,) if given else ()
    made: tuple[Any, ...] = sequence_of("instructions", given)
    for each in made:
        if not isinstance(each, str) and not callable(each):
            raise ConfigurationError(
                f"instructions has a {type(each).__name__}.", fix="Use texts and functions."
            )
    return made


def sequence_of(name: str, given: Any) -> tuple[Any, ...]:
    """A list or tuple of things. Raises ConfigurationError."""
    if not isinstance(given, (list, tuple)):
        raise ConfigurationError(f"{name} is a {type(given).__name__}.", fix=f"Pass a list: {name}=[...].")
    return tuple(given)


def functions_of(name: str, given: Any) -> list[Callable[..., Any]]:
    """A list of functions. Raises ConfigurationError."""
    functions = list(sequence_of(name, given))
    for each in functions:
        if not callable(each):
            raise ConfigurationError(f"{name} has a {type(each).__name__}.", fix="Pass functions.")
    return functions


def flag_of(name: str, given: Any) -> bool:
    """True or False. Raises ConfigurationError."""
    if not isinstance(given, bool):
        raise ConfigurationError(f"{name}={given!r} is not a bool.", fix="Pass True or False.")
    return given


def type_of(given: type[Any] | None) -> type[Any] | None:
    """A class for isinstance. Raises ConfigurationError."""
    if given is not None and not isinstance(given, type):
        raise ConfigurationError(
            f"deps_type={given!r} is not a class.", fix="Pass the class of your dependencies."
        )
    return given


def limits_of(max_turns: int, timeout: float | None, tuning: Tuning) -> Limits:
    """The bounds of a run. Raises ConfigurationError."""
    if not isinstance(tuning, Tuning):
        raise ConfigurationError(f"tuning is a {type(tuning).__name__}.", fix="Pass Tuning(...).")
    limits = _LIMITS if tuning is NO_TUNING else _tuned(tuning)
    if max_turns == limits.max_turns and timeout is None:
        return limits
    return msgspec.structs.replace(
        limits,
        max_turns=_count("max_turns", max_turns, 1),
        timeout=None if timeout is None else seconds("timeout", timeout),
    )


def _tuned(tuning: Tuning) -> Limits:
    flag_of("wait_for_paused", tuning.wait_for_paused)
    flag_of("auto_consolidate", tuning.auto_consolidate)
    for name in ("recover_every", "policy_timeout", "approval_timeout", "memory_timeout"):
        seconds(name, getattr(tuning, name))
    return Limits(
        output_retries=_count("output_retries", tuning.output_retries, 0),
        model_retries=_count("model_retries", tuning.model_retries, 0),
        tool_timeout=seconds("tool_timeout", tuning.tool_timeout),
        max_result=_count("max_result", tuning.max_result, 1),
        wait_for_paused=tuning.wait_for_paused,
    )


def settings_of(settings: ModelSettings | None) -> ModelSettings:
    """Settings for a model. Raises ConfigurationError."""
    if settings is None:
        return NO_SETTINGS
    if not isinstance(settings, ModelSettings):
        raise ConfigurationError(
            f"settings is a {type(settings).__name__}.", fix="Pass ModelSettings(temperature=..., ...)."
        )
    if (wrong := misfit(settings, ModelSettings)) is not None:
        raise ConfigurationError(
            f"settings cannot be kept: {wrong}.", fix="Use plain numbers, texts and JSON data."
        )
    most = settings.max_tokens
    if most is not None and (type(most) is not int or not 0 < most <= MOST_TOKENS):
        raise ConfigurationError(
            f"settings.max_tokens={most!r} bounds no answer.", fix=f"Pass an int from 1 to {MOST_TOKENS:,}."
        )
    for name, value in (("temperature", settings.temperature), ("top_p", settings.top_p)):
        if value is not None and (isinstance(value, bool) or not 0 <= value < math.inf):
            raise ConfigurationError(f"settings.{name}={value!r} is impossible.", fix="Pass a number from 0.")
    return settings


def factory_of(deps: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A function that makes dependencies from a scope. Raises ConfigurationError."""
    if deps is not None and not callable(deps):
        raise ConfigurationError(
            f"deps is a {type(deps).__name__}.",
            fix="Pass a function of the scope, or give values to run(..., deps=).",
        )
    return deps


def name_of(name: str) -> str:
    """An agent's name. Raises ConfigurationError."""
    if not isinstance(name, str) or not name.strip() or clean(name) != name:
        raise ConfigurationError(f"name={name!r} is not a name.", fix="Pass a text that is not blank.")
    if name.endswith(LEARNER):
        raise ConfigurationError(
            f"name={name!r} is reserved for those who learn facts for an agent.",
            fix=f"Choose one that does not end in {LEARNER!r}.",
        )
    return name


def seconds(name: str, value: float) -> float:
    """A time that is one. Raises ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= LONGEST:
        raise ConfigurationError(
            f"{name}={value!r} is not a time.", fix=f"Pass seconds, more than 0 and at most {LONGEST}."
        )
    return float(value)


def _count(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            f"{name}={value!r} is not a number.", fix=f"Pass an int of at least {least}."
        )
    return value
