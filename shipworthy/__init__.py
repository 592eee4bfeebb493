"""Shipworthy: AI agents that go to production, with guarantees that a command can prove.

Public names are resolved at first use, so that `import shipworthy` costs little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from shipworthy.adapters.inmemory.ledger import InMemoryLedger as InMemoryLedger
    from shipworthy.adapters.inmemory.store import InMemoryStore as InMemoryStore
    from shipworthy.adapters.redis.ledger import RedisLedger as RedisLedger
    from shipworthy.app.agent import Agent as Agent
    from shipworthy.app.budgets import NoBudget as NoBudget
    from shipworthy.app.budgets import StandardBudget as StandardBudget
    from shipworthy.app.configuration import Tuning as Tuning
    from shipworthy.app.limits import BudgetConfig as BudgetConfig
    from shipworthy.app.limits import RateLimit as RateLimit
    from shipworthy.app.prices import FREE as FREE
    from shipworthy.app.prices import PriceTable as PriceTable
    from shipworthy.app.prices import price_usd as price_usd
    from shipworthy.app.runtimes import DBOSRuntime as DBOSRuntime
    from shipworthy.app.runtimes import InMemoryRuntime as InMemoryRuntime
    from shipworthy.app.runtimes import PostgresRuntime as PostgresRuntime
    from shipworthy.app.runtimes import SqliteRuntime as SqliteRuntime
    from shipworthy.app.stream import AgentStream as AgentStream
    from shipworthy.app.temporal import TemporalRuntime as TemporalRuntime
    from shipworthy.app.tools import tool as tool
    from shipworthy.domain.context import RunContext as RunContext
    from shipworthy.domain.effects import DidNotHappen as DidNotHappen
    from shipworthy.domain.effects import Happened as Happened
    from shipworthy.domain.effects import Unknown as Unknown
    from shipworthy.domain.events import BudgetReached as BudgetReached
    from shipworthy.domain.events import BudgetWarned as BudgetWarned
    from shipworthy.domain.journal import RunFilter as RunFilter
    from shipworthy.domain.journal import RunSummary as RunSummary
    from shipworthy.domain.messages import File as File
    from shipworthy.domain.messages import Image as Image
    from shipworthy.domain.messages import Message as Message
    from shipworthy.domain.messages import Text as Text
    from shipworthy.domain.messages import Thinking as Thinking
    from shipworthy.domain.messages import ToolCall as ToolCall
    from shipworthy.domain.messages import ToolResult as ToolResult
    from shipworthy.domain.model import ModelRequest as ModelRequest
    from shipworthy.domain.model import ModelSettings as ModelSettings
    from shipworthy.domain.model import TextDelta as TextDelta
    from shipworthy.domain.results import Checkpoint as Checkpoint
    from shipworthy.domain.results import RunResult as RunResult
    from shipworthy.domain.results import is_paused as is_paused
    from shipworthy.domain.scope import Operator as Operator
    from shipworthy.domain.scope import Scope as Scope
    from shipworthy.domain.usage import Charge as Charge
    from shipworthy.domain.usage import Price as Price
    from shipworthy.domain.usage import Usage as Usage
    from shipworthy.errors import BudgetExceeded as BudgetExceeded
    from shipworthy.errors import InvalidOutput as InvalidOutput
    from shipworthy.errors import ModelRetry as ModelRetry
    from shipworthy.errors import NotDone as NotDone
    from shipworthy.errors import ShipworthyError as ShipworthyError
    from shipworthy.testing.scripted import EchoModel as EchoModel
    from shipworthy.testing.scripted import ScriptedModel as ScriptedModel
    from shipworthy.testing.scripted import ScriptedTurn as ScriptedTurn
    from shipworthy.testing.scripted import mock as mock

    InMemoryJournalStore = InMemoryStore

_HOMES = {
    "adapters.inmemory.ledger": ("InMemoryLedger",),
    "adapters.inmemory.store": ("InMemoryStore",),
    "adapters.redis.ledger": ("RedisLedger",),
    "app.agent": ("Agent",),
    "app.budgets": ("NoBudget", "StandardBudget"),
    "app.limits": ("BudgetConfig", "RateLimit"),
    "app.configuration": ("Tuning",),
    "app.prices": ("FREE", "PriceTable", "price_usd"),
    "app.runtimes": ("DBOSRuntime", "InMemoryRuntime", "PostgresRuntime", "SqliteRuntime"),
    "app.stream": ("AgentStream",),
    "app.temporal": ("TemporalRuntime",),
    "app.tools": ("tool",),
    "domain.context": ("RunContext",),
    "domain.effects": ("DidNotHappen", "Happened", "Unknown"),
    "domain.events": ("BudgetReached", "BudgetWarned"),
    "domain.journal": ("RunFilter", "RunSummary"),
    "domain.messages": ("File", "Image", "Message", "Text", "Thinking", "ToolCall", "ToolResult"),
    "domain.model": ("ModelRequest", "ModelSettings", "TextDelta"),
    "domain.results": ("Checkpoint", "RunResult", "is_paused"),
    "domain.scope": ("Operator", "Scope"),
    "domain.usage": ("Charge", "Price", "Usage"),
    "errors": ("BudgetExceeded", "InvalidOutput", "ModelRetry", "NotDone", "ShipworthyError"),
    "testing.scripted": ("EchoModel", "ScriptedModel", "ScriptedTurn", "mock"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FREE",
    "Agent",
    "AgentStream",
    "BudgetConfig",
    "BudgetExceeded",
    "BudgetReached",
    "BudgetWarned",
    "Charge",
    "Checkpoint",
    "DBOSRuntime",
    "DidNotHappen",
    "EchoModel",
    "File",
    "Happened",
    "Image",
    "InMemoryJournalStore",
    "InMemoryLedger",
    "InMemoryRuntime",
    "InMemoryStore",
    "InvalidOutput",
    "Message",
    "ModelRequest",
    "ModelRetry",
    "ModelSettings",
    "NoBudget",
    "NotDone",
    "Operator",
    "PostgresRuntime",
    "Price",
    "PriceTable",
    "RateLimit",
    "RedisLedger",
    "RunContext",
    "RunFilter",
    "RunResult",
    "RunSummary",
    "Scope",
    "ScriptedModel",
    "ScriptedTurn",
    "ShipworthyError",
    "SqliteRuntime",
    "StandardBudget",
    "TemporalRuntime",
    "Text",
    "TextDelta",
    "Thinking",
    "ToolCall",
    "ToolResult",
    "Tuning",
    "Unknown",
    "Usage",
    "is_paused",
    "mock",
    "price_usd",
    "tool",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    public = "InMemoryStore" if name == "InMemoryJournalStore" else name
    module = _HOME.get(public)
    if module is None:
        raise AttributeError(f"module 'shipworthy' has no attribute {name!r}")
    value = getattr(import_module(f"shipworthy.{module}"), public)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
