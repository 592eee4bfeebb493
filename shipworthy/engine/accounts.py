"""The counters that one run draws on, by what its budget says for its scope."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence

import msgspec

from shipworthy.domain.budgets import Limit, RateTerm, Terms
from shipworthy.domain.ledger import Account, Forget, Level, Line, Rate, Unit
from shipworthy.domain.model import OutputSpec, ToolSpec
from shipworthy.domain.scope import ANONYMOUS, Scope
from shipworthy.engine.windows import window_of
from shipworthy.rules.budgets import tokens_around
from shipworthy.rules.ledger import account_of, keys_of, rate_key

_NEVER = 1 << 62
_OF_ONE_RUN = ("run", "session")
_MANY = 4096
_BY_INPUT = {"requests", "input_tokens"}
"""Units of which an answer takes the same however long it is."""


class Drawn(msgspec.Struct, frozen=True, gc=False):
    """What something draws on, and what follows from that alone, so that it is found out once and not in each turn.

    `freed`: keys of what a settlement may give back; `watched`: keys of the lines that have a warning to give, and that
    others draw on meanwhile (a run makes one attempt at a time); `by_output`: whether anything depends on how long an
    answer is. The windows of all lines are open from `begins` until `ends`.
    """

    lines: tuple[Line, ...]
    rates: tuple[Rate, ...]
    begins: int
    ends: int
    units: tuple[Unit, ...]
    rated: tuple[Unit, ...]
    freed: tuple[str, ...]
    watched: tuple[str, ...]
    by_output: bool


NOTHING = Drawn((), (), 0, _NEVER, (), (), (), (), False)
"""What an attempt draws on that nothing limits."""


def drawn_of(lines: tuple[Line, ...], rates: tuple[Rate, ...], shared: Collection[str] = ()) -> Drawn:
    """What is drawn on; *shared*: keys of other runs' own counters, on which several draw at once."""
    units: list[Unit] = [line.unit for line in lines]
    rated: list[Unit] = [rate.unit for rate in rates]
    return Drawn(
        lines,
        rates,
        max([line.start for line in lines], default=0),
        min([line.end for line in lines if line.end], default=_NEVER),
        tuple(units),
        tuple(rated),
        tuple([line.key for line in lines] + [rate.key for rate in rates if rate.unit != "requests"]),
        tuple(
            [line.key for line in lines if line.soft and (line.account.level != "run" or line.key in shared)]
        ),
        not _BY_INPUT.issuperset([*units, *rated]),
    )


class Common:
    """What runs have in common under the same terms: the limits sorted out, and the lines that were made so far."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.lines: dict[Limit, Line] = {}
        self.of_attempts = [limit for limit in terms.limits if limit.unit != "tool_calls"]
        self.of_calls = [limit for limit in terms.limits if limit.unit == "tool_calls"]
        self.of_the_run = [limit for limit in terms.limits if limit.level == "run"]
        self.of_sessions = [limit for limit in terms.limits if limit.level == "session"]
        self.limits_money = "cost_usd" in [limit.unit for limit in terms.limits]


class Shared:
    """What runs of a user have in common, and runs with the same tools, so that each makes only its own anew. Forgets
    all when it is full: it is made again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None, str], Common] = {}
        self._around: tuple[Sequence[ToolSpec], OutputSpec | None, int] = (), None, tokens_around((), None)

    def common(self, terms: Terms, scope: Scope, agent: str) -> Common:
        """What an agent's runs in this scope share."""
        whose = (ANONYMOUS, None, agent) if scope.anonymous else (scope.tenant, scope.user, agent)
        known = self._known.get(whose)
        if known is None or known.terms is not terms:
            if len(self._known) >= _MANY:
                self._known.clear()
            known = self._known[whose] = Common(terms)
        return known

    def tokens_around(self, tools: tuple[ToolSpec, ...], output: OutputSpec | None) -> int:
        """`rules.budgets.tokens_around`; schemas are not encoded again for the next run with the same."""
        known = self._around
        if known[0] is not tools or known[1] is not output:
            known = self._around = tools, output, tokens_around(tools, output)
        return known[2]


class Accounts:
    """The lines and rates of a run. A line is made anew when its window is over.

    `limit_attempts`: whether attempts on the wire are limited, in what they draw or in their pace; `counts_calls`:
    whether tool calls are; `limit_money`: whether what attempts cost is.
    """

    def __init__(self, terms: Terms, scope: Scope, agent: str, run_id: str, shared: Shared) -> None:
        self._terms, self._scope = terms, scope
        self._agent, self._run_id = agent, run_id
        self._common = common = shared.common(terms, scope, agent)
        self._keys: dict[Limit, tuple[Account, str, str]] = {}
        self._alone: set[str] = set()
        self._attempts: dict[tuple[bool, str], Drawn] = {}
        self._calls: Drawn | None = None
        self.limit_attempts = bool(common.of_attempts or terms.rates)
        self.counts_calls = bool(common.of_calls)
        self.limit_money = common.limits_money

    def of_attempt(self, model: str, *, wrap_up: bool) -> Drawn:
        """What an attempt on *model* draws on, its rates in the order of the terms; a last answer may use what is kept
        back for it."""
        now = time.time_ns() // 1_000_000
        drawn = self._attempts.get((wrap_up, model))
        if drawn is None or not drawn.begins <= now < drawn.ends:
            lines = tuple([self._line(limit, wrap_up, now) for limit in self._common.of_attempts])
            rates = tuple([self.rate(term, model) for term in self._terms.rates])
            drawn = self._attempts[wrap_up, model] = drawn_of(lines, rates)
        return drawn

    def of_calls(self) -> tuple[Line, ...]:
        """What tool calls draw on."""
        now = time.time_ns() // 1_000_000
        drawn = self._calls
        if drawn is None or not drawn.begins <= now < drawn.ends:
            lines = tuple([self._line(limit, False, now) for limit in self._common.of_calls])
            drawn = self._calls = drawn_of(lines, ())
        return drawn.lines

    def name(self, line: Line) -> str:
        """The name of a line's limit, as in BudgetConfig."""
        for limit in self._terms.limits:
            if (limit.unit, limit.level, limit.window) == (line.unit, line.account.level, line.window):
                return limit.name
        return line.unit

    def cap(self, line: Line) -> int:
        """The configured cap of a line, with what is kept back for a last answer."""
        name = self.name(line)
        return next((limit.cap for limit in self._terms.limits if limit.name == name), line.cap)

    def of_the_run(self) -> Forget | None:
        """The run's own counters, on which nothing draws once it has ended: a session's too, if it is of no session."""
        own = [self._own(limit)[1] for limit in self._common.of_the_run]
        if self._common.of_sessions and self._scope.session is None:
            now = time.time_ns() // 1_000_000
            for limit in self._common.of_sessions:
                self._line(limit, False, now)
            own += self._alone
        return Forget(self._scope.tenant, tuple(own)) if own else None

    def rate(self, term: RateTerm, model: str) -> Rate:
        """The rate that a term sets for attempts on *model*."""
        whose = self._account(term.level, model)
        return Rate(
            rate_key(whose, term.unit, term.period), whose, term.unit, term.limit, term.period, term.burst
        )

    def _line(self, limit: Limit, wrap_up: bool, now: int) -> Line:
        if limit.level in _OF_ONE_RUN:
            return self._made(limit, wrap_up, now)
        line = self._common.lines.get(limit)
        if line is None or not line.start <= now < (line.end or _NEVER):
            line = self._common.lines[limit] = self._made(limit, wrap_up, now)
        return line

    def _made(self, limit: Limit, wrap_up: bool, now: int) -> Line:
        start, end = window_of(limit.window, self._terms.zone, now)
        whose, key, name = self._own(limit) if limit.level == "run" else self._named(limit, start)
        if limit.level == "session" and self._scope.session is None:
            self._alone.add(key)
        keeps = limit.level == "run" and limit.unit != "tool_calls" and not wrap_up
        kept_back = math.ceil(limit.cap * self._terms.wrap_up) if keeps else 0
        soft = math.ceil(limit.cap * self._terms.soft - 1e-9) if self._terms.soft else 0
        return Line(key, name, whose, limit.unit, limit.window, start, end, limit.cap - kept_back, soft)

    def _named(self, limit: Limit, start: int) -> tuple[Account, str, str]:
        """On whose account a limit counts, and the keys of its counter and of itself."""
        whose = self._account(limit.level)
        return whose, *keys_of(whose, limit.unit, limit.window, start)

    def _own(self, limit: Limit) -> tuple[Account, str, str]:
        """The same for a limit of the run, which counts from its beginning to its end."""
        named = self._keys.get(limit)
        if named is None:
            named = self._keys[limit] = self._named(limit, 0)
        return named

    def _account(self, level: Level, model: str = "") -> Account:
        return account_of(level, self._scope, run_id=self._run_id, agent=self._agent, model=model)
