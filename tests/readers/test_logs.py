"""Logs say whose run did what, how much and how long; what was said in it only where that is asked for."""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec
import pytest

from shipworthy import Approve, Inbox, JsonFormatter, LogEvents, StandardPermissions, ToolCall
from shipworthy.app import log_lines, logs
from shipworthy.domain import events as domain
from shipworthy.domain.events import AnyEvent, RunEnded, RunStarted, ToolReturned
from shipworthy.domain.messages import Text
from shipworthy.domain.usage import Charge, Usage
from shipworthy.errors import ConfigurationError
from tests.readers.world import ALICE, SECRET, bot, refund, run, sight


class Kept(logging.Handler):
    """Keeps the records of our loggers."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def seen(self) -> list[tuple[str, str, str]]:
        """Which event, on which logger, at which level."""
        return [(r.event, r.name.removeprefix("shipworthy."), r.levelname) for r in self.records]  # type: ignore[attr-defined]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A handler on `shipworthy`; no level is set, and every one is as it was afterwards."""
    loggers = [logging.getLogger("shipworthy"), *logs.LOGGERS.values()]
    before, given = [logger.level for logger in loggers], dict(logs._given)
    logs._given.clear()
    for logger in loggers:
        logger.setLevel(logging.NOTSET)
    handler = Kept()
    loggers[0].addHandler(handler)
    yield handler
    loggers[0].removeHandler(handler)
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
    logs._given.clear()
    logs._given.update(given)


def logged(kept: Kept, *events: AnyEvent, reader: LogEvents | None = None) -> list[logging.LogRecord]:
    """What is logged of these events."""
    reader = reader or LogEvents("DEBUG")
    first = RunStarted(seq=1, at=1_000, run_id="r1", tenant="acme", prompt=())
    reader.sitting(sight(past=(first,))).saw(list(events))
    assert reader.delivery.flush_sync()
    return kept.records


# --- what is logged ---------------------------------------------------------------------------


def test_a_run_is_logged_by_domain_with_whose_it_is(kept: Kept) -> None:
    agent = bot()
    recording = agent.attach(LogEvents("DEBUG"))
    run(agent)
    assert recording.flush_sync()
    assert kept.seen() == [
        ("run_started", "runs", "INFO"),
        ("model_requested", "model", "DEBUG"),
        ("model_answered", "model", "INFO"),
        ("tools_judged", "tools", "DEBUG"),
        ("tool_attempted", "tools", "DEBUG"),
        ("tool_returned", "tools", "INFO"),
        ("model_requested", "model", "DEBUG"),
        ("model_answered", "model", "INFO"),
        ("run_ended", "runs", "INFO"),
    ]
    for number, record in enumerate(kept.records):
        told = vars(record)
        whose = {name: told[name] for name in ("tenant", "user", "session", "run", "agent", "seq")}
        assert whose == {
            "tenant": "acme",
            "user": "alice",
            "session": "s1",
            "run": "r1",
            "agent": "bot",
            "seq": number + 1,
        }
        assert record.getMessage().startswith("acme/alice r1 bot ")
    returned = vars(kept.records[5])
    assert (returned["tool"], returned["outcome"]) == ("lookup_order", "ok")
    assert "lookup_order: ok in " in kept.records[5].getMessage()
    assert SECRET not in str([vars(record) for record in kept.records])


def test_an_approval_is_logged_with_who_gave_it(kept: Kept) -> None:
    async def go() -> None:
        agent = bot(
            script=[ToolCall("refund", {"number": SECRET}), "Done."],
            tools=[refund],
            permissions=StandardPermissions(),
            approval_handler=Inbox(),
        )
        recording = agent.attach(LogEvents(levels={"model": "OFF", "tools": "OFF"}))
        parked = await agent.run("?", **ALICE)
        await agent.resume(parked, answer=Approve(by="bob"))
        assert await recording.flush()

    asyncio.run(go())
    assert kept.seen() == [
        ("run_started", "runs", "INFO"),
        ("approval_requested", "approvals", "INFO"),
        ("run_parked", "runs", "INFO"),
        ("approval_granted", "approvals", "INFO"),
        ("run_resumed", "runs", "INFO"),
        ("run_ended", "runs", "INFO"),
    ]
    assert vars(kept.records[3])["approver"] == "bob"
    assert SECRET not in str([vars(record) for record in kept.records])


def test_a_record_has_the_time_of_its_event(kept: Kept) -> None:
    (record,) = logged(kept, RunEnded(seq=5, at=61_250, status="completed"))
    assert (record.created, record.msecs, vars(record)["took_ms"]) == (61.25, 250.0, 60_250)


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (RunEnded(status="completed"), "INFO"),
        (RunEnded(status="stopped", stop_reason="budget:per_run"), "WARNING"),
        (RunEnded(status="failed", error=SECRET), "ERROR"),
        (ToolReturned(call_id="c", content=()), "INFO"),
        (ToolReturned(call_id="c", content=(), outcome="denied", rule="r", reason=SECRET), "WARNING"),
        (domain.RunParked(reason="approval"), "INFO"),
        (domain.RunParked(reason="in_doubt", detail=SECRET), "WARNING"),
        (domain.MemoryRecalled(), "INFO"),
        (domain.MemoryRecalled(problem=SECRET), "WARNING"),
    ],
)
def test_what_somebody_should_look_at_is_a_warning(kept: Kept, event: AnyEvent, level: str) -> None:
    (record,) = logged(kept, event)
    assert record.levelname == level
    assert SECRET not in str(vars(record))


def test_what_an_answer_used_is_in_its_record(kept: Kept) -> None:
    answered = domain.ModelAnswered(
        ordinal=0,
        parts=(Text(SECRET),),
        usage=Usage(input_tokens=7, output_tokens=3),
        model="m",
        charged=Charge(7, 3, 1_500_000),
    )
    (record,) = logged(kept, answered)
    told = vars(record)
    assert (told["input_tokens"], told["output_tokens"], told["cost_usd"]) == (7, 3, 0.0015)


# --- no content -------------------------------------------------------------------------------


PEOPLE = {"by", "approver", "rule", "policy", "model", "limit", "unit", "tool", "call_id", "address", "id"}
"""Texts that say who or which; whoever names a tool or a rule so is told of it."""


def filled(kind: Any, name: str = "") -> Any:
    """A value of this type with the secret wherever something may be said."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is str:
        return "x" if name in PEOPLE else SECRET
    if kind in (int, float, bool):
        return kind(1)
    if kind is type(None):
        return None
    if origin is typing.Literal:
        return arguments[0]
    if origin in (typing.Union, types.UnionType):
        return filled(next(each for each in arguments if each is not type(None)), name)
    if origin is tuple:
        return (filled(arguments[0], name),)
    if origin in (dict, Mapping):
        return {}
    return kind(**{f.name: filled(f.type, f.name) for f in msgspec.structs.fields(kind)})


def law_of_silence(kept: Kept) -> None:
    """Of no event does a log say what was said in it."""
    for kind in get_args(AnyEvent):
        event = filled(kind)
        for field in ("stop_reason", "learning", "changed", "runs"):  # names and ids, not what anybody said
            if hasattr(event, field):
                event = msgspec.structs.replace(event, **{field: () if field in ("changed", "runs") else "x"})
        if kind is domain.ModelFailed:
            event = msgspec.structs.replace(event, error="RateLimited")
        if kind is RunStarted:
            event = msgspec.structs.replace(event, parent=None)
        kept.records.clear()
        (record,) = logged(kept, event)
        assert SECRET not in str(vars(record)), kind
        json.loads(JsonFormatter().format(record))


def test_no_event_is_logged_with_what_was_said_in_it(kept: Kept) -> None:
    law_of_silence(kept)


def test_the_law_catches_a_log_that_repeats_an_error(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def talkative(event: AnyEvent, clues: log_lines.Clues) -> log_lines.Said:
        told = log_lines.said(event, clues)
        return told._replace(fields=told.fields | {"error": getattr(event, "message", None)})

    monkeypatch.setattr(logs, "said", talkative)
    with pytest.raises(AssertionError):
        law_of_silence(kept)


def test_content_is_logged_where_it_is_asked_for(kept: Kept) -> None:
    (record,) = logged(kept, RunEnded(status="failed", error=SECRET), reader=LogEvents(content=True))
    assert SECRET in record.getMessage()
    assert SECRET in vars(record)["content"]


def law_of_names(kept: Kept) -> None:
    """Names of tools are those that the agent has; others are what a model said, and may be anything."""
    kept.records.clear()
    agent = bot(script=[ToolCall(SECRET, {}), ToolCall("lookup_order", {"number": "17"}), "Done."])
    recording = agent.attach(LogEvents())
    run(agent)
    assert recording.flush_sync()
    told = [vars(record)["tool"] for record in kept.records if hasattr(record, "tool")]
    assert told == ["unknown tool", "lookup_order"]
    assert SECRET not in str([vars(record) for record in kept.records])


def test_a_name_that_a_model_made_up_is_not_repeated(kept: Kept) -> None:
    law_of_names(kept)


def test_the_law_catches_a_log_that_takes_any_name_for_a_tool(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "named", lambda tool, known: tool)
    with pytest.raises(AssertionError):
        law_of_names(kept)


def test_with_content_the_name_is_what_the_model_said_on_one_line(kept: Kept) -> None:
    asked = domain.ModelAnswered(ordinal=0, parts=(ToolCall("x\ny", {}, call_id="c"),))
    refused = ToolReturned(call_id="c", content=(), outcome="error")
    *_, record = logged(kept, asked, refused, reader=LogEvents(content=True))
    assert "x" in vars(record)["tool"]
    assert "\n" not in record.getMessage() + vars(record)["tool"]


def test_a_user_id_cannot_forge_a_line(kept: Kept) -> None:
    first = RunStarted(run_id="r1", tenant="acme", prompt=())
    forged = msgspec.structs.replace(
        sight(), scope=msgspec.structs.replace(sight().scope, user="eve\nERROR all is lost")
    )
    reader = LogEvents()
    reader.sitting(forged).saw([first])
    assert reader.delivery.flush_sync()
    assert "\n" not in kept.records[0].getMessage()


# --- levels -----------------------------------------------------------------------------------


def test_each_domain_has_its_own_level(kept: Kept) -> None:
    reader = LogEvents("WARNING", {"tools": "DEBUG", "runs": "OFF"})
    attempted = domain.ToolAttempted(call_id="c")
    logged(
        kept, RunEnded(status="failed"), attempted, domain.ModelRequested(ordinal=0, model="m"), reader=reader
    )
    assert kept.seen() == [("tool_attempted", "tools", "DEBUG")]


def test_a_level_that_was_set_for_a_logger_decides(kept: Kept) -> None:
    logging.getLogger("shipworthy").setLevel("ERROR")
    logged(kept, RunEnded(status="stopped"), RunEnded(status="failed"), reader=LogEvents("DEBUG"))
    assert kept.seen() == [("run_ended", "runs", "ERROR")]


def law_of_later_ones(kept: Kept) -> None:
    """Who asks for more than somebody before is given it; who asks for less takes nothing away."""
    agent = bot()
    readers = [agent.attach(LogEvents(level)) for level in ("INFO", "DEBUG", "WARNING")]
    run(agent)
    assert all([reader.flush_sync() for reader in readers])
    levels = [record.levelname for record in kept.records]
    assert (levels.count("DEBUG"), levels.count("INFO")) == (4, 10)


def test_a_later_reader_that_asks_for_more_is_given_it(kept: Kept) -> None:
    law_of_later_ones(kept)


def test_the_law_catches_a_level_of_ours_that_is_taken_for_theirs(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(dict[str, int]):
        def get(self, name: str, default: Any = None) -> Any:
            return default

    monkeypatch.setattr(logs, "_given", Forgetful())
    with pytest.raises(AssertionError):
        law_of_later_ones(kept)


def test_a_level_that_was_set_after_ours_decides(kept: Kept) -> None:
    LogEvents("INFO")
    logs.LOGGERS["tools"].setLevel("ERROR")
    LogEvents("DEBUG")
    assert logs.LOGGERS["tools"].level == logging.ERROR
    assert logs.LOGGERS["runs"].level == logging.DEBUG


def law_of_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is off is not put into words, and nobody is woken for it."""
    calls: list[AnyEvent] = []
    before = logs.said
    monkeypatch.setattr(logs, "said", lambda event, clues: (calls.append(event), before(event, clues))[1])
    reader = LogEvents("OFF")
    requested = domain.ModelRequested(ordinal=0, model="m")
    reader.sitting(sight(past=(RunStarted(run_id="r1", tenant="acme", prompt=()),))).saw([requested])
    assert reader.delivery.flush_sync()
    assert (calls, reader.delivery.seen) == ([], 0)


def test_what_is_off_costs_a_look_up(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    law_of_cost(monkeypatch)


def test_the_law_catches_a_log_that_looks_late(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(LogEvents):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            self.kinds = {kind: (logs.LOGGERS[at], 1000) for kind, (at, _) in log_lines.DOMAINS.items()}

    monkeypatch.setitem(globals(), "LogEvents", Late)
    with pytest.raises(AssertionError):
        law_of_cost(monkeypatch)


@pytest.mark.parametrize(
    "options",
    [
        {"level": "LOUD"},
        {"level": True},
        {"levels": {"tool": "DEBUG"}},
        {"levels": {"tools": "ALL"}},
        {"capacity": 0},
    ],
)
def test_what_cannot_be_logged_is_said_when_it_is_asked_for(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        LogEvents(**options)
    assert raised.value.fix


def test_every_event_has_a_domain_and_a_level() -> None:
    assert set(log_lines.DOMAINS) == set(get_args(AnyEvent))


# --- JSON -------------------------------------------------------------------------------------


def test_a_message_may_be_json_itself(kept: Kept) -> None:
    (record,) = logged(kept, RunEnded(seq=5, status="completed"), reader=LogEvents(json=True))
    told = json.loads(record.getMessage())
    assert (told["tenant"], told["run"], told["status"], told["message"]) == (
        "acme",
        "r1",
        "completed",
        "completed in 0 ms",
    )


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Treacherous(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items")


class Colour(enum.IntEnum):
    RED = 1


ROUND: list[Any] = []
ROUND.append(ROUND)

WIDE: list[Any] = []
WIDE += [WIDE] * 50

ODD: Sequence[Any] = [
    float("nan"),
    float("inf"),
    "\ud800 half",
    b"\xff",
    {1: "a", (2, 3): {4}},
    ROUND,
    Unspeakable(),
    {Unspeakable(): Unspeakable()},
    Treacherous(a=1),
    Colour.RED,
    10**400,
    10**9000,
    WIDE,
    object,
    asyncio,
    "line\nbreak\u2028",
]


def law_of_lines(formatter: logging.Formatter, odd: Any) -> None:
    """Whatever a record has, it becomes one line of JSON."""
    record = logging.makeLogRecord(
        {"name": "a", "levelname": "INFO", "msg": "%s", "args": (odd,), "odd": odd}
    )
    line = formatter.format(record)
    assert len(line.splitlines()) == 1
    line.encode()
    assert set(json.loads(line)) == {"time", "level", "logger", "message", "odd"}


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_whatever_a_record_has_it_becomes_one_line_of_json(odd: Any) -> None:
    law_of_lines(JsonFormatter(), odd)


class Careless(JsonFormatter):
    """The mutant that trusts what it is given."""

    def format(self, record: logging.LogRecord) -> str:
        odd = vars(record)["odd"]
        fields = {"time": "", "level": "", "logger": "", "message": record.getMessage(), "odd": odd}
        return json.dumps(fields, ensure_ascii=False, default=str)


def test_the_law_catches_a_formatter_that_trusts_what_it_is_given() -> None:
    caught = []
    for odd in ODD:
        try:
            law_of_lines(Careless(), odd)
        except Exception:
            caught.append(odd)
    assert len(caught) >= 8


@pytest.mark.parametrize("args", [("too", "many"), ({"a": 1},), (Unspeakable(),), 5, None])
def test_arguments_that_do_not_fit_the_message_are_shown_beside_it(args: Any) -> None:
    record = logging.makeLogRecord(
        {"msg": "%d things", "args": args, "created": "yesterday", "level": "mine"}
    )
    told = json.loads(JsonFormatter().format(record))
    assert "things" in told["message"]
    assert (told["time"], told["level_"]) == ("yesterday", "mine")


def test_an_error_is_in_its_line() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.makeLogRecord({"msg": "it failed", "exc_info": sys.exc_info(), "created": 0.25})
    told = json.loads(JsonFormatter().format(record))
    assert told["time"] == "1970-01-01T00:00:00.250Z"
    assert told["error"].endswith("ValueError: no")
    broken = logging.makeLogRecord({"msg": "x", "exc_info": ("no", "error", 1)})
    assert "error" in json.loads(JsonFormatter().format(broken))
