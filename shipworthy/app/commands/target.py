"""From `module:agent` or `path/to/file.py:agent` to the Agent that is meant."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

from shipworthy.app.agent import Agent
from shipworthy.errors import ConfigurationError, ShipworthyError

_FIX = "Name it as module:agent or path/to/file.py:agent; the current folder is looked in first."


def load_agent(target: str) -> Agent[Any, Any]:
    """The Agent at *target*, which may be a function that returns one. Raises ConfigurationError."""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ConfigurationError(f"{target!r} does not say where the agent is.", fix=_FIX)
    module = _module(place)
    found = _attribute(module, place, name)
    if not isinstance(found, Agent) and callable(found):
        found = _called(found, target)
    if not isinstance(found, Agent):
        raise ConfigurationError(
            f"{target} is a {type(found).__name__}, not an Agent.{_agents(module)}",
            fix="Name an Agent, or a function without parameters that returns one.",
        )
    return found


@contextlib.asynccontextmanager
async def closing(agent: Agent[Any, Any]) -> AsyncIterator[Agent[Any, Any]]:
    """The agent, and its connections given up afterwards. Unlike `async with agent` it recovers nobody's runs."""
    try:
        yield agent
    finally:
        await agent.close()


def _module(place: str) -> ModuleType:
    cwd = os.getcwd()
    if cwd not in sys.path:
        sys.path.insert(0, cwd)
    is_file = place.endswith(".py") or os.sep in place
    try:
        return _from_file(Path(place)) if is_file else importlib.import_module(place)
    except ShipworthyError:
        raise
    except ModuleNotFoundError as error:
        raise _missing(place, error, is_file) from None
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"{place} could not be imported: {type(error).__name__}: {error}{_where(error)}.",
            fix="Correct it; `python -c 'import ...'` shows the whole traceback.",
        ) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}.", fix=_FIX)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # Under a name of its own where the plain one is taken: `json.py:agent` must not replace json.
    name = path.stem if path.stem not in sys.modules else f"_shipworthy_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is not a Python file.", fix=_FIX)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _missing(place: str, error: ModuleNotFoundError, is_file: bool) -> ConfigurationError:
    if not is_file and error.name and (place == error.name or place.startswith(f"{error.name}.")):
        return ConfigurationError(f"There is no module {error.name!r} here or on sys.path.", fix=_FIX)
    return ConfigurationError(
        f"{place} could not be imported: it needs {error.name!r}, which is not installed{_where(error)}.",
        fix=f"Install what it needs into this environment ({sys.prefix}).",
    )


def _where(error: BaseException) -> str:
    """The user's own line that led to *error*."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    ours = [f for f in frames if f.filename != __file__ and f.filename != importlib.__file__]
    return f" ({ours[-1].filename}, line {ours[-1].lineno})" if ours else ""


def _attribute(module: ModuleType, place: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{place} has no {name!r}.{_agents(module)}", fix=_FIX)
        found = getattr(found, part)
    return found


def _agents(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Agent)]
    return f" It has: {', '.join(names)}." if names else ""


def _called(function: Any, target: str) -> Any:
    try:
        made = function()
    except ShipworthyError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{target}() raised {type(error).__name__}: {error}{_where(error)}.",
            fix="The function is called without arguments and must return an Agent.",
        ) from error
    if inspect.iscoroutine(made):
        made.close()
        raise ConfigurationError(
            f"{target} is an async function.", fix="Make it a plain one: building an Agent waits for nothing."
        )
    return made
