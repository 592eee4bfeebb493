"""Every name that telemetry uses: those of the GenAI semantic conventions of one version, and our own.

Pinned: OpenTelemetry semantic conventions 1.41.1, the last release that has the GenAI conventions; since then they are
in a repository of their own, which has released none. They have no names for memory and for identity: those are ours.
"""

from __future__ import annotations

from typing import Literal

import msgspec

VERSION = "1.41.1"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{VERSION}"
SCOPE = "shipworthy"
"""The instrumentation's name."""

# --- attributes of the conventions ----------------------------------------------------------

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
AGENT = "gen_ai.agent.name"
CONVERSATION = "gen_ai.conversation.id"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"
TOOL = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
TOOL_CALL = "gen_ai.tool.call.id"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"
ERROR_TYPE = "error.type"
USER = "user.id"

# --- attributes of ours ---------------------------------------------------------------------

TENANT_ID = "tenant_id"
USER_ID = "user_id"
KEY = "shipworthy.span.key"
RUN = "shipworthy.run.id"
ROOT_RUN = "shipworthy.run.root"
RESUMED = "shipworthy.run.resumed"
STATUS = "shipworthy.run.status"
STOP_REASON = "shipworthy.run.stop_reason"
PURPOSE = "shipworthy.model.purpose"
COST = "shipworthy.cost.usd"
CHARGED_INPUT = "shipworthy.charged.input_tokens"
CHARGED_OUTPUT = "shipworthy.charged.output_tokens"
ATTEMPT = "shipworthy.tool.attempt"
RETRIES = "shipworthy.tool.retries"
EFFECT = "shipworthy.tool.effect"
OUTCOME = "shipworthy.tool.outcome"
MEMORY_ITEMS = "shipworthy.memory.items"
LIMIT = "shipworthy.budget.limit"
OF = "shipworthy.budget.of"
REASON = "shipworthy.parked.reason"

OTHER = "other"
"""What stands for every tenant or user beyond those that a metric may name."""
ANONYMOUS = "anonymous"
"""What stands, in a metric, for the tenant of a run that names nobody."""

# --- spans ----------------------------------------------------------------------------------

Operation = Literal["invoke_agent", "chat", "execute_tool", "search_memory", "upsert_memory"]
INVOKE_AGENT: Operation = "invoke_agent"
CHAT: Operation = "chat"
EXECUTE_TOOL: Operation = "execute_tool"
SEARCH_MEMORY: Operation = "search_memory"
UPSERT_MEMORY: Operation = "upsert_memory"
Kind = Literal["internal", "client"]
KINDS: dict[Operation, Kind] = {
    INVOKE_AGENT: "internal",
    CHAT: "client",
    EXECUTE_TOOL: "internal",
    SEARCH_MEMORY: "internal",
    UPSERT_MEMORY: "internal",
}

_ALWAYS = (OPERATION, AGENT, TENANT_ID, USER_ID, RUN, KEY, ERROR_TYPE)
SPAN_ATTRIBUTES: dict[Operation, tuple[str, ...]] = {
    INVOKE_AGENT: (
        *_ALWAYS,
        PROVIDER,
        REQUEST_MODEL,
        CONVERSATION,
        USER,
        RESUMED,
        ROOT_RUN,
        STATUS,
        STOP_REASON,
        REASON,
        SYSTEM_INSTRUCTIONS,
        INPUT_MESSAGES,
        OUTPUT_MESSAGES,
    ),
    CHAT: (
        *_ALWAYS,
        PROVIDER,
        REQUEST_MODEL,
        RESPONSE_MODEL,
        FINISH_REASONS,
        INPUT_TOKENS,
        OUTPUT_TOKENS,
        CACHE_READ_TOKENS,
        CACHE_WRITE_TOKENS,
        REASONING_TOKENS,
        COST,
        CHARGED_INPUT,
        CHARGED_OUTPUT,
        PURPOSE,
        OUTPUT_MESSAGES,
    ),
    EXECUTE_TOOL: (
        *_ALWAYS,
        TOOL,
        TOOL_TYPE,
        TOOL_CALL,
        ATTEMPT,
        RETRIES,
        EFFECT,
        OUTCOME,
        TOOL_ARGUMENTS,
        TOOL_RESULT,
    ),
    SEARCH_MEMORY: (*_ALWAYS, MEMORY_ITEMS),
    UPSERT_MEMORY: (*_ALWAYS, MEMORY_ITEMS),
}
"""What a span of an operation may have, and nothing else."""
CONTENT = (SYSTEM_INSTRUCTIONS, INPUT_MESSAGES, OUTPUT_MESSAGES, TOOL_ARGUMENTS, TOOL_RESULT)
"""Those that say what was said and done: for whoever captures content."""

PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex": "gcp.vertex_ai",
    "xai": "x_ai",
}
"""What the conventions call a provider that we call otherwise; the others have one name."""


def provider_and_model(name: str) -> tuple[str, str]:
    """What the conventions call the provider and the model of 'provider:model'."""
    provider, colon, model = name.partition(":")
    return PROVIDERS.get(provider, provider), model if colon else name


# --- metrics --------------------------------------------------------------------------------


class Instrument(msgspec.Struct, frozen=True):
    """A metric. `buckets`: the boundaries that a histogram is advised to have."""

    name: str
    kind: Literal["counter", "histogram"]
    unit: str
    description: str
    attributes: tuple[str, ...]
    buckets: tuple[float, ...] = ()


TOKEN_USAGE = "gen_ai.client.token.usage"
OPERATION_DURATION = "gen_ai.client.operation.duration"
SESSION_DURATION = "shipworthy.session.duration_ms"
TOKENS_INPUT = "shipworthy.tokens.input"
TOKENS_OUTPUT = "shipworthy.tokens.output"
COST_USD = "shipworthy.cost.usd"
BUDGET_EXCEEDED = "shipworthy.budget.exceeded"
EXTRACT_DURATION = "shipworthy.auto_extract.duration_ms"
EXTRACT_INVOCATIONS = "shipworthy.auto_extract.invocations"
TOOL_DURATION = "shipworthy.tool.duration_ms"
RUNS_PARKED = "shipworthy.runs.parked"
IN_DOUBT = "shipworthy.in_doubt"

_MODEL = (OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL)
_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5)
_TOKENS = tuple([float(4**n) for n in range(14)])
_SECONDS = tuple([0.01 * 2**n for n in range(14)])

INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument(
        TOKEN_USAGE,
        "histogram",
        "{token}",
        "Number of input and output tokens used.",
        (*_MODEL, TOKEN_TYPE),
        _TOKENS,
    ),
    Instrument(
        OPERATION_DURATION, "histogram", "s", "GenAI operation duration.", (*_MODEL, ERROR_TYPE), _SECONDS
    ),
    Instrument(
        SESSION_DURATION,
        "histogram",
        "ms",
        "From a run's start to its end, without the time in which nobody drove it.",
        (AGENT, STATUS),
        _MS,
    ),
    Instrument(
        TOKENS_INPUT,
        "counter",
        "{token}",
        "Input tokens that attempts are charged, or else that providers reported.",
        (AGENT, REQUEST_MODEL),
    ),
    Instrument(
        TOKENS_OUTPUT,
        "counter",
        "{token}",
        "Output tokens that attempts are charged, or else that providers reported.",
        (AGENT, REQUEST_MODEL),
    ),
    Instrument(COST_USD, "counter", "{USD}", "What attempts are charged.", (AGENT, REQUEST_MODEL)),
    Instrument(
        BUDGET_EXCEEDED,
        "counter",
        "{event}",
        "Something was not done because a limit does not afford it.",
        (AGENT, LIMIT, OF),
    ),
    Instrument(
        EXTRACT_DURATION,
        "histogram",
        "ms",
        "From the start to the end of a run that learns facts.",
        (AGENT, STATUS),
        _MS,
    ),
    Instrument(EXTRACT_INVOCATIONS, "counter", "{run}", "Runs that learn facts and began.", (AGENT,)),
    Instrument(
        TOOL_DURATION,
        "histogram",
        "ms",
        "From the intent of a call to its result.",
        (AGENT, TOOL, OUTCOME),
        _MS,
    ),
    Instrument(RUNS_PARKED, "counter", "{run}", "Runs that were parked.", (AGENT, REASON)),
    Instrument(IN_DOUBT, "counter", "{call}", "Calls whose effect is in doubt.", (AGENT, TOOL)),
)


def prefixed(name: str, prefix: str) -> str:
    """The name of a metric under another prefix than ours; those of the conventions keep theirs."""
    return f"{prefix}{name[len(SCOPE) :]}" if prefix and name.startswith(f"{SCOPE}.") else name
