"""Logs of runs through the standard library's `logging`, by domain; and a formatter that writes them as JSON lines."""

from __future__ import annotations

import datetime
import functools
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shipworthy.app.commands.timeline import lines, one_line
from shipworthy.app.delivery import CAPACITY, Delivery, Queue, Work
from shipworthy.app.log_lines import (
    APPROVALS,
    BUDGET,
    DOMAINS,
    MEMORY,
    MODEL,
    RUNS,
    TOOLS,
    Clues,
    named,
    said,
)
from shipworthy.app.recorders import Names, Observed, Onlooker, capacity_of
from shipworthy.domain.events import (
    AnyEvent,
    ModelAnswered,
    ModelRequested,
    RunEnded,
    RunStarted,
    ToolAttempted,
    ToolInDoubt,
    ToolReturned,
)
from shipworthy.errors import ConfigurationError
from shipworthy.ports.readers import Sight, Sitting

LOGGERS = {
    domain: logging.getLogger(f"shipworthy.{domain}")
    for domain in (RUNS, MODEL, TOOLS, BUDGET, APPROVALS, MEMORY)
}
_ROOT = logging.getLogger("shipworthy")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_OFF = logging.CRITICAL + 1

Level = str | int
"""A level of `logging`, by its name or its number; "OFF" for nothing."""


class LogEvents:
    """Logs what runs do: `agent.attach(LogEvents())`. Loggers are `shipworthy.runs`, `.model`, `.tools`, `.budget`,
    `.approvals` and `.memory`; records have `tenant`, `user`, `session`, `run`, `agent`, `seq`, `event` and what is
    particular to the event as attributes (`extra`).

    `level`: what is logged at least; `levels`: the same by domain, such as `{"tools": "DEBUG", "budget": "OFF"}`. Where
    you set no level for a logger or for `shipworthy`, it is set to let that through. `json`: the message is a JSON
    object of all of it. `content`: log what was said, asked and given, too; without, whose it was, what happened, how
    much and how long. `capacity`: as of `agent.attach`. Raises ConfigurationError.
    """

    def __init__(
        self,
        level: Level = "INFO",
        levels: Mapping[str, Level] | None = None,
        *,
        json: bool = False,
        content: bool = False,
        capacity: int = CAPACITY,
    ) -> None:
        least = dict.fromkeys(LOGGERS, _level_of("level", level))
        for domain, own in (levels or {}).items():
            if domain not in least:
                raise ConfigurationError(
                    f"There is no domain {domain!r} to log.", fix=f"Name one of {', '.join(least)}."
                )
            least[domain] = _level_of(f"levels[{domain!r}]", own)
        self.least = {kind: least[domain] for kind, (domain, _) in DOMAINS.items()}
        self.kinds = {
            kind: (LOGGERS[domain], highest)
            for kind, (domain, highest) in DOMAINS.items()
            if highest >= least[domain]
        }
        self.json, self.content = json, content
        for domain, lowest in least.items():
            _let_through(LOGGERS[domain], lowest)
        self.delivery: Delivery[Work] = Delivery("LogEvents", Queue(capacity_of(capacity)))

    def sitting(self, sight: Sight) -> Sitting:
        """Begin to log a sitting."""
        return _Logging(self, sight)

    def trace(self) -> str:
        """None."""
        return ""

    def write(self, event: AnyEvent, about: Observed, clues: Clues) -> None:
        """Log one event, as of its own time."""
        told = said(event, clues)
        logger = self.kinds[type(event)][0]
        if told.level < self.least[type(event)] or not logger.isEnabledFor(told.level):
            return
        fields: dict[str, Any] = {
            "tenant": about.tenant,
            "user": about.user,
            "session": about.session,
            "run": about.run_id,
            "agent": about.agent,
            "seq": event.seq,
            "event": str(event.__struct_config__.tag),
        }
        fields |= {name: value for name, value in told.fields.items() if value is not None}
        words = told.words
        if self.content:
            names = {getattr(event, "call_id", None) or "": clues.tool} if clues.tool else {}
            fields["content"] = lines([event], names)[0].what
            words = f"{words}: {fields['content']}"
        whose = about.tenant if about.user is None else f"{about.tenant}/{about.user}"
        message = one_line(f"{whose} {about.run_id} {about.agent} {words}")
        if self.json:
            message = _text({"message": one_line(words), **fields})
        logger.handle(_record(logger, told.level, message, event.at, fields))


def _level_of(name: str, given: Any) -> int:
    """A level as a number. Raises ConfigurationError."""
    if isinstance(given, str) and given.upper() in (*_LEVELS, "OFF"):
        return _OFF if given.upper() == "OFF" else int(logging.getLevelName(given.upper()))
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ConfigurationError(
            f"{name}={given!r} is no level.", fix=f"Pass one of {', '.join(_LEVELS)}, OFF, or a number."
        )
    return given


_given: dict[str, int] = {}
"""The levels that were set here, by the loggers' names: those are nobody else's."""


def _let_through(logger: logging.Logger, lowest: int) -> None:
    """An option that the root logger's default silences would do nothing; whoever set a level here meant it."""
    ours = logger.level == _given.get(logger.name, logging.NOTSET)
    unset = (ours or logger.level == logging.NOTSET) and _ROOT.level == logging.NOTSET
    if unset and lowest < _OFF and logger.getEffectiveLevel() > lowest:
        _given[logger.name] = max(lowest, 1)
        logger.setLevel(_given[logger.name])


def _record(
    logger: logging.Logger, level: int, message: str, at: int, fields: dict[str, Any]
) -> logging.LogRecord:
    record = logger.makeRecord(logger.name, level, "shipworthy", 0, message, (), None)
    record.created, record.msecs = at / 1000, float(at % 1000)
    record.__dict__.update(
        fields
    )  # not as `extra`, which refuses names that the application's own records have
    return record


class _Logging(Onlooker):
    """What is off costs a look-up; the rest is put into words on the thread of the delivery."""

    __slots__ = ("_began", "_names", "_of", "_started", "_tools")

    def __init__(self, of: LogEvents, sight: Sight) -> None:
        super().__init__(sight)
        self._of = of
        self._names, self._tools = Names(sight.past), sight.tools
        self._began: dict[str, int] = {}
        self._started = sight.past[0].at if sight.past else 0

    def saw(self, events: Sequence[AnyEvent]) -> None:
        work: list[Work] = []
        about = self.about(events)
        for event in events:
            took = self._took(event)
            kind = self._of.kinds.get(type(event))
            if kind is not None and kind[0].isEnabledFor(kind[1]):
                clues = Clues(self._tool(event), took)
                work.append(functools.partial(self._of.write, event, about, clues))
        if work:
            self._of.delivery.offer(work)

    def _tool(self, event: AnyEvent) -> str:
        tool = self._names.of(getattr(event, "call_id", None) or "")
        return one_line(tool) if self._of.content else named(tool, self._tools)

    def _took(self, event: AnyEvent) -> int | None:
        """Milliseconds since what this event ends began, where it ends something that began in this sitting."""
        began: int | None = None
        match event:
            case RunStarted():
                self._started = event.at
            case ModelRequested():
                self._began[""] = event.at
            case ToolAttempted():
                self._began[event.call_id] = event.at
            case ModelAnswered():
                self._names.note(event)
                began = self._began.pop("", None)
            case ToolReturned() | ToolInDoubt():
                began = self._began.pop(event.call_id, None)
            case RunEnded():
                began = self._started
            case _:
                pass
        return None if began is None else max(0, event.at - began)


# as JSON


_STANDARD = frozenset([*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"])
_DEEPEST, _MOST = 8, 10_000
"""How deep a value may be nested, and how many there may be in a line."""
_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""What JSON may have as it is, and some take for the end of a line."""


class JsonFormatter(logging.Formatter):
    """Each record as one JSON object on one line: `time` (UTC), `level`, `logger`, `message`, then whatever else the
    record has, and `error` where it was logged with one. Raises nothing, whatever that is."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        for name, value in list(record.__dict__.items()):
            if name not in _STANDARD:
                fields[f"{name}_" if name in fields else name] = value
        try:
            if record.exc_info and not record.exc_text:
                record.exc_text = self.formatException(record.exc_info)
        except Exception:
            record.exc_text = _safe(record.exc_info)
        if record.exc_text:
            fields["error"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        return _text(fields)


def _time(created: Any) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(created, datetime.UTC)
    except Exception:
        return _safe(created)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the message
        return f"{_safe(record.msg)} {_safe(record.args)}"


def _text(fields: Mapping[str, Any]) -> str:
    text = json.dumps(_Plain().of(fields, 0), ensure_ascii=False, allow_nan=False)
    return text if text.isascii() else text.translate(_BREAKS)


class _Plain:
    """Values as JSON can have them: what it cannot is told in words, and what is too much is left out."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _MOST

    def of(self, value: Any, depth: int) -> Any:
        """*value*, which stands so deep."""
        kind = type(value)
        self._left -= 1
        if value is None or kind is bool or (kind is int and value.bit_length() < 1024):
            return value
        if kind is float and math.isfinite(value):
            return value
        try:
            if isinstance(value, Mapping):
                return {_safe(name): self.of(value[name], depth + 1) for name in self._some(value, depth)}
            if isinstance(value, (list, tuple, set, frozenset)):
                return [self.of(each, depth + 1) for each in self._some(value, depth)]
        except Exception:
            return f"<{kind.__name__} that cannot be read>"
        return _safe(value)

    def _some(self, values: Iterable[Any], depth: int) -> Iterator[Any]:
        for each in values if depth < _DEEPEST else ():
            if self._left <= 0:
                return
            yield each


def _safe(value: Any) -> str:
    try:
        return str(value).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return f"<{type(value).__name__} that has no words>"
