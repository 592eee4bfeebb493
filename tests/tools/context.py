"""A run's context for tests of tools and outputs."""

from typing import Any

from shipworthy.domain.context import RunContext
from shipworthy.domain.scope import Scope


def context(deps: Any = None, call_id: str = "call-1") -> RunContext[Any]:
    return RunContext(deps=deps, scope=Scope("acme"), run_id="run-1", call_id=call_id)
