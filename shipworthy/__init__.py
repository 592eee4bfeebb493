"""Shipworthy: AI agents that go to production, with guarantees that a command can prove.

Public names are resolved at first use, so that `import shipworthy` costs little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from shipworthy.adapters.anchors.file import FileAnchor as FileAnchor
    from shipworthy.adapters.anchors.http import HttpAnchor as HttpAnchor
    from shipworthy.adapters.bedrock import BedrockEmbedder as BedrockEmbedder
    from shipworthy.adapters.cohere import CohereEmbedder as CohereEmbedder
    from shipworthy.adapters.console.telemetry import ConsoleTelemetry as ConsoleTelemetry
    from shipworthy.adapters.inmemory.audit import InMemoryAuditLog as InMemoryAuditLog
    from shipworthy.adapters.inmemory.ledger import InMemoryLedger as InMemoryLedger
    from shipworthy.adapters.inmemory.store import InMemoryStore as InMemoryStore
    from shipworthy.adapters.inmemory.telemetry import InMemoryTelemetry as InMemoryTelemetry
    from shipworthy.adapters.local import LocalEmbedder as LocalEmbedder
    from shipworthy.adapters.openai import OpenAIEmbedder as OpenAIEmbedder
    from shipworthy.adapters.otel import OTelTelemetry as OTelTelemetry
    from shipworthy.adapters.otel import StableIds as StableIds
    from shipworthy.adapters.postgres.anchor import PostgresAnchor as PostgresAnchor
    from shipworthy.adapters.redis.ledger import RedisLedger as RedisLedger
    from shipworthy.adapters.s3 import ObjectAnchor as ObjectAnchor
    from shipworthy.adapters.shared.sealed import SealedKey as SealedKey
    from shipworthy.app.agent import Agent as Agent
    from shipworthy.app.audit_logs import FileAuditLog as FileAuditLog
    from shipworthy.app.audit_logs import PostgresAuditLog as PostgresAuditLog
    from shipworthy.app.audit_logs import SqliteAuditLog as SqliteAuditLog
    from shipworthy.app.budgets import NoBudget as NoBudget
    from shipworthy.app.budgets import StandardBudget as StandardBudget
    from shipworthy.app.configuration import Tuning as Tuning
    from shipworthy.app.fact_stores import InMemoryFactStore as InMemoryFactStore
    from shipworthy.app.fact_stores import SqliteFactStore as SqliteFactStore
    from shipworthy.app.inbox import Inbox as Inbox
    from shipworthy.app.limits import BudgetConfig as BudgetConfig
    from shipworthy.app.limits import RateLimit as RateLimit
    from shipworthy.app.logs import JsonFormatter as JsonFormatter
    from shipworthy.app.logs import LogEvents as LogEvents
    from shipworthy.app.memories import DynamoDBMemory as DynamoDBMemory
    from shipworthy.app.memories import InMemoryMemory as InMemoryMemory
    from shipworthy.app.memories import PostgresMemory as PostgresMemory
    from shipworthy.app.memories import RedisMemory as RedisMemory
    from shipworthy.app.memories import SqliteMemory as SqliteMemory
    from shipworthy.app.memory_tools import memory_tools as memory_tools
    from shipworthy.app.nested import handoff as handoff
    from shipworthy.app.nested import parallel as parallel
    from shipworthy.app.pausing import ask_human as ask_human
    from shipworthy.app.pausing import pause_here as pause_here
    from shipworthy.app.permissions import PerUserPermissions as PerUserPermissions
    from shipworthy.app.permissions import StandardPermissions as StandardPermissions
    from shipworthy.app.permissions import all_of as all_of
    from shipworthy.app.permissions import policy as policy
    from shipworthy.app.policy_documents import PolicyDocument as PolicyDocument
    from shipworthy.app.prices import FREE as FREE
    from shipworthy.app.prices import PriceTable as PriceTable
    from shipworthy.app.prices import price_usd as price_usd
    from shipworthy.app.recorders import Observed as Observed
    from shipworthy.app.recorders import Recording as Recording
    from shipworthy.app.runtimes import DBOSRuntime as DBOSRuntime
    from shipworthy.app.runtimes import InMemoryRuntime as InMemoryRuntime
    from shipworthy.app.runtimes import PostgresRuntime as PostgresRuntime
    from shipworthy.app.runtimes import SqliteRuntime as SqliteRuntime
    from shipworthy.app.status_line import StatusLine as StatusLine
    from shipworthy.app.stream import AgentStream as AgentStream
    from shipworthy.app.temporal import TemporalRuntime as TemporalRuntime
    from shipworthy.app.tools import tool as tool
    from shipworthy.domain.approvals import ApprovalRequest as ApprovalRequest
    from shipworthy.domain.context import RunContext as RunContext
    from shipworthy.domain.effects import DidNotHappen as DidNotHappen
    from shipworthy.domain.effects import Happened as Happened
    from shipworthy.domain.effects import Unknown as Unknown
    from shipworthy.domain.events import BudgetReached as BudgetReached
    from shipworthy.domain.events import BudgetWarned as BudgetWarned
    from shipworthy.domain.journal import RunFilter as RunFilter
    from shipworthy.domain.journal import RunSummary as RunSummary
    from shipworthy.domain.memory import Block as Block
    from shipworthy.domain.memory import Episode as Episode
    from shipworthy.domain.memory import Erased as Erased
    from shipworthy.domain.memory import Fact as Fact
    from shipworthy.domain.memory import Recalled as Recalled
    from shipworthy.domain.memory import Source as Source
    from shipworthy.domain.memory import Weights as Weights
    from shipworthy.domain.memory import Why as Why
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
    from shipworthy.domain.pausing import Checkpoint as Checkpoint
    from shipworthy.domain.pausing import PendingCall as PendingCall
    from shipworthy.domain.policy import Action as Action
    from shipworthy.domain.policy import Approve as Approve
    from shipworthy.domain.policy import Decision as Decision
    from shipworthy.domain.policy import Deny as Deny
    from shipworthy.domain.policy import Mode as Mode
    from shipworthy.domain.policy import Replace as Replace
    from shipworthy.domain.results import RunResult as RunResult
    from shipworthy.domain.results import is_paused as is_paused
    from shipworthy.domain.scope import Operator as Operator
    from shipworthy.domain.scope import Scope as Scope
    from shipworthy.domain.usage import Charge as Charge
    from shipworthy.domain.usage import Price as Price
    from shipworthy.domain.usage import Usage as Usage
    from shipworthy.engine.memory.memory import Memory as Memory
    from shipworthy.errors import AnswerRefused as AnswerRefused
    from shipworthy.errors import BudgetExceeded as BudgetExceeded
    from shipworthy.errors import CheckpointRefused as CheckpointRefused
    from shipworthy.errors import InvalidOutput as InvalidOutput
    from shipworthy.errors import ModelRetry as ModelRetry
    from shipworthy.errors import NotDone as NotDone
    from shipworthy.errors import ShipworthyError as ShipworthyError
    from shipworthy.rules.policies.statements import Statement as Statement
    from shipworthy.testing.embedders import FakeEmbedder as FakeEmbedder
    from shipworthy.testing.embedders import HashEmbedder as HashEmbedder
    from shipworthy.testing.scripted import EchoModel as EchoModel
    from shipworthy.testing.scripted import ScriptedModel as ScriptedModel
    from shipworthy.testing.scripted import ScriptedTurn as ScriptedTurn
    from shipworthy.testing.scripted import mock as mock

    InMemoryJournalStore = InMemoryStore

_HOMES = {
    "adapters.anchors.file": ("FileAnchor",),
    "adapters.anchors.http": ("HttpAnchor",),
    "adapters.bedrock": ("BedrockEmbedder",),
    "adapters.cohere": ("CohereEmbedder",),
    "adapters.console.telemetry": ("ConsoleTelemetry",),
    "adapters.inmemory.audit": ("InMemoryAuditLog",),
    "adapters.inmemory.ledger": ("InMemoryLedger",),
    "adapters.inmemory.store": ("InMemoryStore",),
    "adapters.inmemory.telemetry": ("InMemoryTelemetry",),
    "adapters.local": ("LocalEmbedder",),
    "adapters.openai": ("OpenAIEmbedder",),
    "adapters.otel": ("OTelTelemetry", "StableIds"),
    "adapters.redis.ledger": ("RedisLedger",),
    "adapters.s3": ("ObjectAnchor",),
    "adapters.shared.sealed": ("SealedKey",),
    "app.agent": ("Agent",),
    "app.anchors": ("PostgresAnchor",),
    "app.audit_logs": ("FileAuditLog", "PostgresAuditLog", "SqliteAuditLog"),
    "app.budgets": ("NoBudget", "StandardBudget"),
    "app.configuration": ("Tuning",),
    "app.fact_stores": ("InMemoryFactStore", "SqliteFactStore"),
    "app.inbox": ("Inbox",),
    "app.limits": ("BudgetConfig", "RateLimit"),
    "app.logs": ("JsonFormatter", "LogEvents"),
    "app.memories": ("DynamoDBMemory", "InMemoryMemory", "PostgresMemory", "RedisMemory", "SqliteMemory"),
    "app.memory_tools": ("memory_tools",),
    "app.nested": ("handoff", "parallel"),
    "app.pausing": ("ask_human", "pause_here"),
    "app.permissions": ("PerUserPermissions", "StandardPermissions", "all_of", "policy"),
    "app.policy_documents": ("PolicyDocument",),
    "app.prices": ("FREE", "PriceTable", "price_usd"),
    "app.recorders": ("Observed", "Recording"),
    "app.runtimes": ("DBOSRuntime", "InMemoryRuntime", "PostgresRuntime", "SqliteRuntime"),
    "app.status_line": ("StatusLine",),
    "app.stream": ("AgentStream",),
    "app.temporal": ("TemporalRuntime",),
    "app.tools": ("tool",),
    "domain.approvals": ("ApprovalRequest",),
    "domain.context": ("RunContext",),
    "domain.effects": ("DidNotHappen", "Happened", "Unknown"),
    "domain.events": ("BudgetReached", "BudgetWarned"),
    "domain.journal": ("RunFilter", "RunSummary"),
    "domain.memory": ("Block", "Episode", "Erased", "Fact", "Recalled", "Source", "Weights", "Why"),
    "domain.messages": ("File", "Image", "Message", "Text", "Thinking", "ToolCall", "ToolResult"),
    "domain.model": ("ModelRequest", "ModelSettings", "TextDelta"),
    "domain.pausing": ("Checkpoint", "PendingCall"),
    "domain.policy": ("Action", "Approve", "Decision", "Deny", "Mode", "Replace"),
    "domain.results": ("RunResult", "is_paused"),
    "domain.scope": ("Operator", "Scope"),
    "domain.usage": ("Charge", "Price", "Usage"),
    "engine.memory.memory": ("Memory",),
    "errors": (
        "AnswerRefused",
        "BudgetExceeded",
        "CheckpointRefused",
        "InvalidOutput",
        "ModelRetry",
        "NotDone",
        "ShipworthyError",
    ),
    "rules.policies.statements": ("Statement",),
    "testing.embedders": ("FakeEmbedder", "HashEmbedder"),
    "testing.scripted": ("EchoModel", "ScriptedModel", "ScriptedTurn", "mock"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FREE",
    "Action",
    "Agent",
    "AgentStream",
    "AnswerRefused",
    "ApprovalRequest",
    "Approve",
    "BedrockEmbedder",
    "Block",
    "BudgetConfig",
    "BudgetExceeded",
    "BudgetReached",
    "BudgetWarned",
    "Charge",
    "Checkpoint",
    "CheckpointRefused",
    "CohereEmbedder",
    "ConsoleTelemetry",
    "DBOSRuntime",
    "Decision",
    "Deny",
    "DidNotHappen",
    "DynamoDBMemory",
    "EchoModel",
    "Episode",
    "Erased",
    "Fact",
    "FakeEmbedder",
    "File",
    "FileAnchor",
    "FileAuditLog",
    "Happened",
    "HashEmbedder",
    "HttpAnchor",
    "Image",
    "InMemoryAuditLog",
    "InMemoryFactStore",
    "InMemoryJournalStore",
    "InMemoryLedger",
    "InMemoryMemory",
    "InMemoryRuntime",
    "InMemoryStore",
    "InMemoryTelemetry",
    "Inbox",
    "InvalidOutput",
    "JsonFormatter",
    "LocalEmbedder",
    "LogEvents",
    "Memory",
    "Message",
    "Mode",
    "ModelRequest",
    "ModelRetry",
    "ModelSettings",
    "NoBudget",
    "NotDone",
    "OTelTelemetry",
    "ObjectAnchor",
    "Observed",
    "OpenAIEmbedder",
    "Operator",
    "PendingCall",
    "PerUserPermissions",
    "PolicyDocument",
    "PostgresAnchor",
    "PostgresAuditLog",
    "PostgresMemory",
    "PostgresRuntime",
    "Price",
    "PriceTable",
    "RateLimit",
    "Recalled",
    "Recording",
    "RedisLedger",
    "RedisMemory",
    "Replace",
    "RunContext",
    "RunFilter",
    "RunResult",
    "RunSummary",
    "Scope",
    "ScriptedModel",
    "ScriptedTurn",
    "SealedKey",
    "ShipworthyError",
    "Source",
    "SqliteAuditLog",
    "SqliteFactStore",
    "SqliteMemory",
    "SqliteRuntime",
    "StableIds",
    "StandardBudget",
    "StandardPermissions",
    "Statement",
    "StatusLine",
    "TemporalRuntime",
    "Text",
    "TextDelta",
    "Thinking",
    "ToolCall",
    "ToolResult",
    "Tuning",
    "Unknown",
    "Usage",
    "Weights",
    "Why",
    "all_of",
    "ask_human",
    "handoff",
    "is_paused",
    "memory_tools",
    "mock",
    "parallel",
    "pause_here",
    "policy",
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
