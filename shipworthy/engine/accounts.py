"""The counters that one run draws on, by what its budget says for its scope."""

from __future__ import annotations

import math
import time

import msgspec

from shipworthy.domain.budgets import Limit, RateTerm, Terms
from shipworthy.domain.ledger import Account, Forget, Level, Line, Rate
from shipworthy.domain.scope import Scope
from shipworthy.engine.windows import window_of
from shipworthy.rules.ledger import account_of, keys_of, rate_key

_NEVER = 1 << 62


class _Made(msgspec.Struct, frozen=True, gc=False):
    """Lines, and from when to when the windows of all of them are open."""

    lines: tuple[Line, ...]
    begins: int
    ends: int


class Accounts:
    """The lines and rates of a run. A line is made anew when its window is over."""

    def __init__(self, terms: Terms, scope: Scope, agent: str, run_id: str) -> None:
        self._terms, self._scope = terms, scope
        self._agent, self._run_id = agent, run_id
        self._of_attempts = [limit for limit in terms.limits if limit.unit != "tool_calls"]
        self._of_calls = [limit for limit in terms.limits if limit.unit == "tool_calls"]
        self._made: dict[tuple[str, bool], _Made] = {}
        self._names = {limit.name: limit for limit in terms.limits}

    @property
    def counts_calls(self) -> bool:
        """Whether tool calls are limited."""
        return bool(self._of_calls)

    @property
    def limit_attempts(self) -> bool:
        """Whether attempts on the wire are limited, in what they draw or in their pace."""
        return bool(self._of_attempts or self._terms.rates)

    def of_attempt(self, *, wrap_up: bool) -> tuple[Line, ...]:
        """What an attempt on the wire draws on; a last answer may use what is kept back for it."""
        return self._current("attempt", self._of_attempts, wrap_up)

    def of_calls(self) -> tuple[Line, ...]:
        """What tool calls draw on."""
        return self._current("calls", self._of_calls, False)

    def rates(self, model: str) -> tuple[Rate, ...]:
        """What limits the pace of attempts on *model*, in the order of the terms."""
        return tuple([self._rate(term, model) for term in self._terms.rates])

    def name(self, line: Line) -> str:
        """The name of a line's limit, as in BudgetConfig."""
        for limit in self._terms.limits:
            if (limit.unit, limit.level, limit.window) == (line.unit, line.account.level, line.window):
                return limit.name
        return line.unit

    def of_the_run(self) -> Forget | None:
        """The run's own counters, on which nothing draws once it has ended."""
        own = [limit for limit in self._terms.limits if limit.level == "run"]
        if not own:
            return None
        whose = self._account("run")
        keys = [keys_of(whose, limit.unit, limit.window, 0)[0] for limit in own]
        return Forget(self._scope.tenant, tuple(keys))

    def _current(self, kind: str, limits: list[Limit], wrap_up: bool) -> tuple[Line, ...]:
        now = time.time_ns() // 1_000_000
        made = self._made.get((kind, wrap_up))
        if made is None or not made.begins <= now < made.ends:
            lines = tuple([self._line(limit, wrap_up, now) for limit in limits])
            begins = max([line.start for line in lines], default=0)
            ends = min([line.end for line in lines if line.end], default=_NEVER)
            made = self._made[kind, wrap_up] = _Made(lines, begins, ends)
        return made.lines

    def _line(self, limit: Limit, wrap_up: bool, now: int) -> Line:
        start, end = window_of(limit.window, self._terms.zone, now)
        whose = self._account(limit.level)
        key, name = keys_of(whose, limit.unit, limit.window, start)
        keeps = limit.level == "run" and limit.unit != "tool_calls" and not wrap_up
        kept_back = math.ceil(limit.cap * self._terms.wrap_up) if keeps else 0
        soft = max(int(limit.cap * self._terms.soft), 1) if self._terms.soft else 0
        return Line(key, name, whose, limit.unit, limit.window, start, end, limit.cap - kept_back, soft)

    def _account(self, level: Level, model: str = "") -> Account:
        return account_of(level, self._scope, run_id=self._run_id, agent=self._agent, model=model)

    def _rate(self, term: RateTerm, model: str) -> Rate:
        whose = self._account(term.level, model)
        return Rate(
            rate_key(whose, term.unit, term.period), whose, term.unit, term.limit, term.period, term.burst
        )
