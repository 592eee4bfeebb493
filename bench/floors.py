"""The two floors that everything is measured against, written by hand and meant to be read.

`Raw` is the loop that a team writes in an afternoon: messages as dicts, arguments as JSON, tools by name, nothing
else. `Governed` is the same loop with what production asks for on top: run id, tenant, budget check and charge,
permission check, argument validation, a timeout around each tool, a span record for each operation, and an
HMAC-chained audit entry for each event. All of it is in memory, and computed once where it can be: it is the
physical limit for what shipworthy promises.

Both know nothing of shipworthy. They must stay as quick as a good engineer would make them, and do the whole work.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

Json = dict[str, Any]
ToolFunction = Callable[..., Awaitable[str]]

MAX_TURNS = 1_000


# --- the scripted model that both talk to -----------------------------------------------------


class Replies:
    """Answers by script, as dicts in the form that chat APIs use. `chunks` is how a streamed text arrives."""

    def __init__(self, turns: Sequence[Json], chunks: Sequence[str] = ()) -> None:
        self._turns = turns
        self._chunks = chunks

    async def answer(self, messages: list[Json], tools: list[Json], ordinal: int) -> Json:
        return self._turns[ordinal]

    async def stream(self, messages: list[Json], tools: list[Json], ordinal: int) -> AsyncIterator[Json]:
        for chunk in self._chunks:
            yield {"type": "text_delta", "text": chunk}
        yield {"type": "answer", "message": self._turns[ordinal]}


def say(text: str) -> Json:
    return {"role": "assistant", "content": text, "usage": {"input_tokens": 90, "output_tokens": 7}}


def call(*calls: tuple[str, str], turn: int = 0) -> Json:
    """An answer that calls tools: (name, arguments as JSON text)."""
    made = [
        {"id": f"call_{turn}_{slot}", "name": name, "arguments": text}
        for slot, (name, text) in enumerate(calls)
    ]
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": made,
        "usage": {"input_tokens": 90, "output_tokens": 7},
    }


# --- raw --------------------------------------------------------------------------------------


class Raw:
    """A loop over dicts."""

    def __init__(self, instructions: str, model: Replies, tools: Sequence[ToolFunction]) -> None:
        self.instructions = instructions
        self.model = model
        self.tools = {tool.__name__: tool for tool in tools}
        self.schemas: list[Json] = [{"name": name} for name in self.tools]

    async def run(self, prompt: str) -> str:
        messages: list[Json] = [
            {"role": "system", "content": self.instructions},
            {"role": "user", "content": prompt},
        ]
        for turn in range(MAX_TURNS):
            answer = await self.model.answer(messages, self.schemas, turn)
            messages.append(answer)
            calls = answer.get("tool_calls")
            if not calls:
                text: str = answer["content"]
                return text
            if len(calls) == 1:
                messages.append(await self._call(calls[0]))
            else:
                messages.extend(await asyncio.gather(*[self._call(c) for c in calls]))
        raise RuntimeError("too many turns")

    async def _call(self, asked: Json) -> Json:
        result = await self.tools[asked["name"]](**json.loads(asked["arguments"]))
        return {"role": "tool", "tool_call_id": asked["id"], "content": result}

    async def stream(self, prompt: str) -> AsyncIterator[str]:
        messages: list[Json] = [
            {"role": "system", "content": self.instructions},
            {"role": "user", "content": prompt},
        ]
        async for event in self.model.stream(messages, self.schemas, 0):
            if event["type"] == "text_delta":
                yield event["text"]
            else:
                messages.append(event["message"])


# --- what production asks for -----------------------------------------------------------------


class OverBudget(Exception):
    """The reservation would pass the cap."""


class Denied(Exception):
    """The tenant's policy refuses the tool."""


class Ledger:
    """Tokens reserved and spent, by tenant and by user: settled plus reserved never passes the cap."""

    def __init__(self, per_tenant: int, per_user: int) -> None:
        self._caps = (per_tenant, per_user)
        self._spent: dict[tuple[str, ...], int] = {}
        self._reserved: dict[tuple[str, ...], int] = {}

    def reserve(self, tenant: str, user: str, tokens: int) -> None:
        spent, reserved = self._spent, self._reserved
        keys = ((tenant,), (tenant, user))
        for key, cap in zip(keys, self._caps, strict=True):
            if spent.get(key, 0) + reserved.get(key, 0) + tokens > cap:
                raise OverBudget(key)
        for key in keys:
            reserved[key] = reserved.get(key, 0) + tokens

    def settle(self, tenant: str, user: str, reserved: int, used: int) -> None:
        for key in ((tenant,), (tenant, user)):
            self._reserved[key] -= reserved
            self._spent[key] = self._spent.get(key, 0) + used


class Permissions:
    """Which tools a tenant may use; a tool that changes something needs to be granted by name."""

    def __init__(self, granted: Mapping[str, frozenset[str]], denied: Mapping[str, frozenset[str]]) -> None:
        self._granted = granted
        self._denied = denied

    def check(self, tenant: str, tool: str, effect: str) -> None:
        if tool in self._denied.get(tenant, ()):
            raise Denied(tool)
        if effect != "read" and tool not in self._granted.get(tenant, ()):
            raise Denied(tool)


class AuditEntry(msgspec.Struct, gc=False, omit_defaults=True):
    seq: int
    at: int
    tenant: str
    user: str
    run: str
    kind: str
    subject: str = ""
    digest: str = ""
    tokens: int = 0


class Audit:
    """A chain: each entry's MAC covers the entry and the MAC before it."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._encode = msgspec.json.Encoder().encode
        self._last = b"\0" * 32
        self.entries: list[tuple[bytes, bytes]] = []

    def append(
        self,
        who: tuple[str, str, str],
        kind: str,
        subject: str = "",
        digest: str = "",
        tokens: int = 0,
    ) -> None:
        tenant, user, run = who
        entry = AuditEntry(
            len(self.entries) + 1,
            time.time_ns() // 1_000_000,
            tenant,
            user,
            run,
            kind,
            subject,
            digest,
            tokens,
        )
        body = self._encode(entry)
        self._last = hmac.digest(self._key, self._last + body, "sha256")
        self.entries.append((body, self._last))


class Span(msgspec.Struct, gc=False):
    trace: str
    span: int
    parent: int
    name: str
    start: int
    end: int = 0
    tokens: int = 0


class Tracer:
    """Spans as they end, kept for an exporter that takes them away now and then."""

    def __init__(self, keep: int = 100_000) -> None:
        self.ended: deque[Span] = deque(maxlen=keep)

    def start(self, trace: str, name: str, parent: int = 0) -> Span:
        return Span(trace, random.getrandbits(64), parent, name, time.time_ns())

    def end(self, span: Span) -> None:
        span.end = time.time_ns()
        self.ended.append(span)


class GovernedTool:
    """A function with its contract; the validator is made once."""

    __slots__ = ("decode", "effect", "fn", "name", "timeout")

    def __init__(
        self, fn: ToolFunction, arguments: type[msgspec.Struct], *, effect: str, timeout: float
    ) -> None:
        self.fn = fn
        self.name = fn.__name__
        self.decode = msgspec.json.Decoder(arguments).decode
        self.effect = effect
        self.timeout = timeout


# --- governed ---------------------------------------------------------------------------------


class Service:
    """What the runs of one process share."""

    def __init__(self) -> None:
        self.ledger = Ledger(per_tenant=10**12, per_user=10**12)
        self.permissions = Permissions(granted={}, denied={"initech": frozenset({"weather"})})
        self.audit = Audit(b"an audit key of thirty-two bytes")
        self.tracer = Tracer()


class Governed:
    """The loop of `Raw` with everything that production asks for."""

    __slots__ = ("instructions", "max_tokens", "model", "schemas", "service", "tools")

    def __init__(
        self, instructions: str, model: Replies, tools: Sequence[GovernedTool], service: Service
    ) -> None:
        self.instructions = instructions
        self.model = model
        self.tools = {tool.name: tool for tool in tools}
        self.schemas: list[Json] = [{"name": name} for name in self.tools]
        self.service = service
        self.max_tokens = 20_000

    async def run(self, prompt: str, tenant: str, user: str) -> str:
        service = self.service
        who = (tenant, user, uuid.uuid4().hex)
        root = service.tracer.start(who[2], "run")
        service.audit.append(who, "run_started", digest=hashlib.sha256(prompt.encode()).hexdigest())
        messages: list[Json] = [
            {"role": "system", "content": self.instructions},
            {"role": "user", "content": prompt},
        ]
        try:
            for turn in range(MAX_TURNS):
                answer = await self._ask(who, root, messages, turn)
                messages.append(answer)
                calls = answer.get("tool_calls")
                if not calls:
                    text: str = answer["content"]
                    service.audit.append(who, "run_ended", digest=hashlib.sha256(text.encode()).hexdigest())
                    return text
                if len(calls) == 1:
                    messages.append(await self._call(who, root, calls[0]))
                else:
                    messages.extend(await self._side_by_side(who, root, calls))
            raise RuntimeError("too many turns")
        finally:
            service.tracer.end(root)

    async def _ask(self, who: tuple[str, str, str], root: Span, messages: list[Json], turn: int) -> Json:
        """One metered call of the model: reserved before, settled after, whatever comes of it."""
        service = self.service
        tenant, user, trace = who
        span = service.tracer.start(trace, "model", root.span)
        service.ledger.reserve(tenant, user, self.max_tokens)
        service.audit.append(who, "model_requested", tokens=self.max_tokens)
        used = self.max_tokens
        try:
            answer = await self.model.answer(messages, self.schemas, turn)
            usage = answer["usage"]
            used = span.tokens = usage["input_tokens"] + usage["output_tokens"]
        finally:
            service.ledger.settle(tenant, user, self.max_tokens, used)
            service.tracer.end(span)
        service.audit.append(who, "model_answered", tokens=used)
        return answer

    async def _side_by_side(self, who: tuple[str, str, str], root: Span, calls: Sequence[Json]) -> list[Json]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._call(who, root, c)) for c in calls]
        return [task.result() for task in tasks]

    async def _call(self, who: tuple[str, str, str], root: Span, asked: Json) -> Json:
        """One call of a tool: validated, permitted, audited before and after, and bounded in time."""
        service = self.service
        text: str = asked["arguments"]
        tool = self.tools[asked["name"]]
        arguments = tool.decode(text)
        service.permissions.check(who[0], tool.name, tool.effect)
        service.audit.append(who, "tool_attempted", tool.name, hashlib.sha256(text.encode()).hexdigest())
        span = service.tracer.start(who[2], tool.name, root.span)
        try:
            async with asyncio.timeout(tool.timeout):
                result = await tool.fn(**msgspec.structs.asdict(arguments))
        finally:
            service.tracer.end(span)
        service.audit.append(who, "tool_returned", tool.name, hashlib.sha256(result.encode()).hexdigest())
        return {"role": "tool", "tool_call_id": asked["id"], "content": result}

    async def stream(self, prompt: str, tenant: str, user: str) -> AsyncIterator[str]:
        """One streamed turn; a stream that runs past what was reserved for it is cut."""
        service = self.service
        who = (tenant, user, uuid.uuid4().hex)
        root = service.tracer.start(who[2], "run")
        service.audit.append(who, "run_started", digest=hashlib.sha256(prompt.encode()).hexdigest())
        messages: list[Json] = [
            {"role": "system", "content": self.instructions},
            {"role": "user", "content": prompt},
        ]
        span = service.tracer.start(who[2], "model", root.span)
        service.ledger.reserve(tenant, user, self.max_tokens)
        service.audit.append(who, "model_requested", tokens=self.max_tokens)
        used = self.max_tokens
        shown = hashlib.sha256()
        tokens = 0
        try:
            async for event in self.model.stream(messages, self.schemas, 0):
                if event["type"] == "text_delta":
                    tokens += 1
                    if tokens > self.max_tokens:
                        raise OverBudget(who)
                    text = event["text"]
                    shown.update(text.encode())
                    yield text
                else:
                    answer = event["message"]
                    messages.append(answer)
                    used = span.tokens = answer["usage"]["input_tokens"] + answer["usage"]["output_tokens"]
        finally:
            service.ledger.settle(tenant, user, self.max_tokens, used)
            service.tracer.end(span)
            service.tracer.end(root)
        service.audit.append(who, "model_answered", tokens=used)
        service.audit.append(who, "run_ended", digest=shown.hexdigest())
