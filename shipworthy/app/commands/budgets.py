"""`shipworthy budget`: looking into a ledger, and changing what stands in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar, get_args

import typer

from shipworthy.adapters.inmemory.ledger import InMemoryLedger
from shipworthy.app.commands import accounts
from shipworthy.app.commands.accounts import WINDOWS, Row
from shipworthy.app.commands.printing import OK, Printer, note
from shipworthy.app.commands.runs import whose as scope_of
from shipworthy.app.commands.target import closing, load_agent
from shipworthy.app.ledgers import check_ledger, make_ledger
from shipworthy.domain.budgets import Limit, Terms
from shipworthy.domain.ledger import NANO, Account, Balance, Level, Unit, Window
from shipworthy.domain.scope import ANONYMOUS, Operator, Scope
from shipworthy.engine.auditing import Logs
from shipworthy.errors import ConfigurationError, IdentityMissing, InputError
from shipworthy.ports.budget import Budget
from shipworthy.ports.ledger import Accounts
from shipworthy.rules.audit.entries import done
from shipworthy.rules.ledger import account_of, belongs
from shipworthy.rules.text import clean

Known = TypeVar("Known", bound=str)
_OPERATOR = Operator("shipworthy budget")
_MOST = 9 * 10**15
_CHANGES, _LOOKED_AT = 20, 1_000
"""Changes that are shown, of so many that are looked at for those of whom is asked about."""
_LEVELS: tuple[Level, ...] = ("user", "tenant", "session", "run", "agent", "global")
_UNITS: tuple[Unit, ...] = get_args(Unit)
_NEEDS: dict[Level, tuple[str, ...]] = {
    "user": ("tenant", "user"),
    "tenant": ("tenant",),
    "session": ("tenant", "user", "session"),
    "run": ("tenant", "run_id"),
    "agent": ("agent_name",),
    "global": (),
}
_NAMELESS: tuple[Level, ...] = ("user", "tenant")
"""Accounts of runs that name nobody."""
_UNSEEN = (
    "note: there is no such counter yet. Nothing says whether a budget limits it: check the names, --unit and "
    "--window, or name the agent."
)
_UNSEEN_OF_AGENT = "note: there is no such counter yet; the cap holds from its first use. Check the names."
_PLACES = "Pass one of module:agent and --ledger sqlite:<path> (or postgres://..., redis://...)."


class Where(NamedTuple):
    """Which ledger is meant: that of an agent's budget, or its own address."""

    agent: str | None
    ledger: str | None


class Kind(NamedTuple):
    """What sort of counter: the account's level, what is counted, and for how long."""

    level: Level
    unit: Unit
    window: Window | None


class Whose(NamedTuple):
    """The account, as the options name it."""

    tenant: str | None
    user: str | None
    session: str | None
    run_id: str | None
    agent_name: str | None
    anonymous: bool


class Record(NamedTuple):
    """What is kept of a change."""

    who: str
    why: str


class Books:
    """An open ledger, and the budget that draws on it where an agent was named."""

    def __init__(
        self,
        ledger: Accounts,
        budget: Budget | None = None,
        agent: str | None = None,
        logs: Logs | None = None,
    ) -> None:
        self.ledger, self.budget, self.agent = ledger, budget, agent
        self.zone: str | None = None
        self._logs = Logs() if logs is None else logs

    async def enter(self, action: str, record: Record, account: Account, **facts: Any) -> None:
        """Enter in the agent's audit log what is about to be done. Raises AuditError."""
        whose = {**accounts.account_data(account), **facts, "why": record.why}
        tenant = account.tenant or None
        await self._logs.enter(done(action, record.who, time.time_ns() // 1_000_000, tenant, whose))

    async def limits(self, scope: Scope) -> tuple[Limit, ...]:
        """What the agent's budget says for a scope. Raises ConfigurationError."""
        if self.budget is None:
            return ()
        terms: Terms = await self.budget.terms(scope)
        self.zone = terms.zone
        return terms.limits

    async def cap(self, account: Account, unit: Unit, window: Window) -> int | None:
        """The configured cap of an account, if the budget says the same to whoever draws on it."""
        scope = accounts.scope_of(account)
        if scope is None:
            if getattr(self.budget, "has_plans", True):
                return None
            scope = Scope(account.tenant or ANONYMOUS)
        with contextlib.suppress(ConfigurationError):  # a plan that knows no such scope
            for limit in await self.limits(scope):
                if (limit.level, limit.unit, limit.window) == (account.level, unit, window):
                    return limit.cap
        return None

    async def rows(self, balances: Sequence[Balance]) -> list[Row]:
        """Counters with the caps that are in force, as far as they are known."""
        caps: dict[tuple[Account, Unit, Window], int | None] = {}
        rows = []
        for each in balances:
            key = each.account, each.unit, each.window
            if key not in caps:
                caps[key] = await self.cap(*key)
            rows.append(Row(each, caps[key] if each.cap is None else each.cap))
        return rows


def with_ledger(
    where: Where, *, as_json: bool, work: Callable[[Printer, Books], Coroutine[Any, Any, int]]
) -> int:
    """Do *work* on the ledger; gives its exit code."""
    printer = Printer(as_json=as_json)

    async def go() -> int:
        async with _opened(where) as books:
            return await work(printer, books)

    with printer.user_code():
        return asyncio.run(go())


@contextlib.asynccontextmanager
async def _opened(where: Where) -> AsyncIterator[Books]:
    if (where.agent is None) == (where.ledger is None):
        raise ConfigurationError("Which ledger?", fix=_PLACES)
    if where.agent is None:
        async with _open(_at(where.ledger or "")) as ledger:
            yield Books(ledger)
        return
    async with closing(load_agent(where.agent)) as agent:
        if agent.budget is None:
            raise ConfigurationError(
                f"{where.agent} has no budget.",
                fix="Give it Agent(budget=StandardBudget(...)), or name a ledger with --ledger.",
            )
        async with _open(agent.budget.ledger_on(agent.runtime.store)) as ledger:
            try:
                yield Books(ledger, agent.budget, agent.name, agent.runtime.logs)
            finally:
                await agent.runtime.logs.close()


@contextlib.asynccontextmanager
async def _open(ledger: Any) -> AsyncIterator[Accounts]:
    if isinstance(ledger, InMemoryLedger):
        raise ConfigurationError(
            "The ledger is in memory: nobody but the process that keeps it can look into it.",
            fix='Keep it in SQLite, Postgres or Redis: a runtime such as "sqlite:bot.db", or '
            'StandardBudget(..., ledger="redis://host").',
        )
    if not all([hasattr(ledger, name) for name in ("show", "top", "set_cap", "reset", "changes")]):
        raise ConfigurationError(
            f"A {type(ledger).__name__} has no accounts to look into.",
            fix="Give it the methods of shipworthy.ports.ledger.Accounts.",
        )
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


def _at(place: str) -> Any:
    """The ledger at an address. Looking must not create a file."""
    try:
        check_ledger(place)
    except ConfigurationError:
        raise ConfigurationError(
            f"--ledger {place.partition(':')[0]!r}... is not a place for a ledger.", fix=_PLACES
        ) from None
    if place.startswith("sqlite:") and not os.path.exists(path := place.removeprefix("sqlite:")):
        raise ConfigurationError(f"There is no database at {path}.", fix=_PLACES)
    return make_ledger(place)


# the commands


async def show(
    printer: Printer, books: Books, tenant: str | None, user: str | None, *, every_window: bool
) -> int:
    """Counters and the latest changes."""
    balances = await books.ledger.show(_OPERATOR, tenant, user)
    rows = await books.rows(balances if every_window else accounts.latest(balances))
    found = await books.ledger.changes(_OPERATOR, _LOOKED_AT)
    changes = [each for each in found if belongs(each.account, tenant, user)][:_CHANGES]
    if printer.as_json:
        data = {
            "counters": [row.data() for row in rows],
            "changes": [accounts.change_data(c) for c in changes],
        }
        printer.emit(data)
        return OK
    if rows:
        accounts.say(printer, rows, books.zone)
    elif tenant is None:
        printer.say("No counters of everybody together; --tenant shows a tenant's and its users'.")
    else:
        printer.say(f"No counters of {tenant if user is None else f'{user} of {tenant}'}: nothing was spent.")
    if changes:
        printer.say()
        accounts.say_changes(printer, changes)
    return OK


async def top(printer: Printer, books: Books, kind: Kind, limit: int) -> int:
    """Who spent most."""
    rows: list[Row] = []
    for window in WINDOWS if kind.window is None else (kind.window,):
        found = await books.ledger.top(_OPERATOR, kind.unit, window, kind.level, limit)
        rows += await books.rows(found)
    if printer.as_json:
        printer.emit({"counters": [row.data() for row in rows]})
    elif rows:
        accounts.say(printer, rows, books.zone, across=True)
    else:
        within = "" if kind.window is None else f" in a window of kind {kind.window!r}"
        printer.say(f"No counters of {kind.unit} per {kind.level}{within}: nothing was spent.")
    return OK


async def set_cap(
    printer: Printer, books: Books, kind: Kind, whose: Whose, cap: int | None, record: Record
) -> int:
    """Override a cap, or take the override back."""
    scope, account = account_meant(kind.level, whose, books.agent)
    window = await _window(books, kind, scope)
    if not await _counters(books, account, kind.unit, window):
        note(_UNSEEN if books.budget is None else _UNSEEN_OF_AGENT)
    await books.enter("budget.overridden", record, account, unit=kind.unit, window=window, cap=cap)
    await books.ledger.set_cap(_OPERATOR, account, kind.unit, window, cap, record.who, record.why)
    said = "the configured one" if cap is None else accounts.amount(kind.unit, cap)
    if printer.as_json:
        printer.emit({"set": _data(account, kind.unit, window, record, cap=accounts.number(kind.unit, cap))})
    else:
        what = f"{accounts.who(account, across=True)}: the cap of {kind.unit} ({window}) is {said}"
        printer.say(f"{what} from now on.")
    return OK


async def reset(
    printer: Printer, books: Books, kind: Kind, whose: Whose, record: Record, *, yes: bool
) -> int:
    """Take what was spent back to 0."""
    scope, account = account_meant(kind.level, whose, books.agent)
    window = await _window(books, kind, scope)
    counters = await _counters(books, account, kind.unit, window)
    name = accounts.who(account, across=True)
    if not counters:
        raise InputError(
            f"There is no counter of {kind.unit} ({window}) for {name}.",
            fix="`shipworthy budget show` lists those that there are.",
        )
    spent = accounts.amount(kind.unit, sum([each.spent for each in counters]))
    if not yes:
        _confirm(f"Take {spent} of {name} back to 0, in {len(counters)} window(s)?", as_json=printer.as_json)
    await books.enter("budget.reset", record, account, unit=kind.unit, window=window)
    was = await books.ledger.reset(_OPERATOR, account, kind.unit, window, record.who, record.why)
    if printer.as_json:
        printer.emit(
            {"reset": _data(account, kind.unit, window, record, was=accounts.number(kind.unit, was))}
        )
    else:
        printer.say(
            f"{name}: {accounts.amount(kind.unit, was)} of {kind.unit} ({window}) were taken back to 0."
        )
    return OK


def _confirm(question: str, *, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise InputError(f"{question} Nobody is there to say so.", fix="Pass --yes.")
    typer.confirm(question, abort=True, err=True)


def _data(account: Account, unit: Unit, window: Window, record: Record, **more: Any) -> dict[str, Any]:
    counter = {**accounts.account_data(account), "unit": unit, "window": window}
    return {**counter, **more, "by": record.who, "why": record.why}


async def _counters(books: Books, account: Account, unit: Unit, window: Window) -> list[Balance]:
    found = await books.ledger.show(_OPERATOR, account.tenant or None, None)
    return [each for each in found if (each.account, each.unit, each.window) == (account, unit, window)]


async def _window(books: Books, kind: Kind, scope: Scope) -> Window:
    """The window that is meant: one that the agent's budget has. Raises InputError."""
    if books.budget is None:
        return _said(kind, "Which window?", "as the budget has it, or the agent")
    try:
        limits = await books.limits(scope)
    except ConfigurationError as error:  # a plan that knows no such scope
        return _said(kind, f"Which window? {error.what}", "as the budget has it")
    fitting: list[Window] = [
        limit.window for limit in limits if (limit.level, limit.unit) == (kind.level, kind.unit)
    ]
    if not fitting or kind.window not in (None, fitting[0]):
        known = ", ".join([f"{limit.name} ({limit.window})" for limit in limits]) or "nothing"
        asked = f"{kind.unit} per {kind.level}{'' if kind.window is None else f' ({kind.window})'}"
        raise InputError(f"The agent's budget does not limit {asked}.", fix=f"It limits {known}.")
    return fitting[0]


def _said(kind: Kind, question: str, which: str) -> Window:
    """The window that the options name. Raises InputError."""
    if kind.window is None:
        raise InputError(question, fix=f"Pass --window hour, day, month or total, {which}.")
    return kind.window


# what people write, as values


def check_names(tenant: str | None, user: str | None) -> None:
    """Raises IdentityMissing for a user without a tenant, or names that nobody can have."""
    if user is not None and tenant is None:
        raise IdentityMissing("--user is a tenant's user.", fix="Pass --tenant as well.")
    if tenant is not None:
        scope_of(tenant, user)


def kind_of(per: str, unit: str, window: str | None) -> Kind:
    """Raises typer.BadParameter for what there is not."""
    level = _one_of("--per", per, _LEVELS)
    counted = _one_of("--unit", unit, _UNITS)
    during = None if window is None else _one_of("--window", window, WINDOWS)
    if during is not None and (during == "run") != (level == "run"):
        raise typer.BadParameter('what is counted per run has the window "run", and nothing else has')
    return Kind(level, counted, "run" if level == "run" else during)


def _one_of(option: str, value: str, known: Sequence[Known]) -> Known:
    for each in known:
        if each == value:
            return each
    raise typer.BadParameter(f"{option} {value!r} is none of {', '.join(known)}")


def cap_of(text: str | None, unit: Unit, *, remove: bool) -> int | None:
    """A cap in the ledger's units, None to take it back. Raises typer.BadParameter, InputError."""
    if (text is None) != remove:
        raise typer.BadParameter("pass one of --cap and --remove")
    if text is None:
        return None
    try:
        amount = Decimal(text) * (NANO if unit == "cost_usd" else 1)
        if amount.is_finite() and 0 <= amount <= _MOST and amount == int(amount):
            return int(amount)
    except ArithmeticError:
        pass
    what = "US dollars, from 0 to 9,000,000" if unit == "cost_usd" else f"whole {unit}, from 0"
    raise InputError(f"--cap {text!r} is no cap of {unit}.", fix=f"Pass {what}.")


def record_of(by: str, why: str) -> Record:
    """Raises InputError: a change that says nothing cannot be understood later."""
    for option, value in (("--by", by), ("--why", why)):
        if not value.strip() or clean(value) != value:
            raise InputError(
                f"{option} {value!r} says nothing.", fix="Say who does it, and why: both are kept."
            )
    return Record(by.strip(), why.strip())


def account_meant(level: Level, whose: Whose, agent: str | None) -> tuple[Scope, Account]:
    """The account that the options name, and its scope. Raises InputError for one too few or too many."""
    if level == "agent" and whose.agent_name is None:
        whose = whose._replace(agent_name=agent)
    needed = list(_NEEDS[level])
    if whose.anonymous:
        needed = _anonymously(level, whose)
    given = [name for name in Whose._fields if name != "anonymous" and getattr(whose, name) is not None]
    for name in needed:
        if name not in given:
            fix = f"Pass {_listed(needed)}{', or --anonymous' if level in _NAMELESS else ''}."
            raise InputError(f"--per {level} needs {_option(name)}.", fix=fix)
    for name in given:
        if name not in needed:
            raise InputError(
                f"{_option(name)} has no place with --per {level}.", fix=f"Pass {_listed(needed)}."
            )
    scope = scope_of(ANONYMOUS if whose.tenant is None else whose.tenant, whose.user, whose.session)
    for name in ("run_id", "agent_name"):
        value = getattr(whose, name)
        if value is not None and (not value.strip() or clean(value) != value):
            raise InputError(
                f"{_option(name)} {value!r} is empty, or no valid text.", fix="Pass the name itself."
            )
    return scope, account_of(level, scope, run_id=whose.run_id or "", agent=whose.agent_name or "")


def _anonymously(level: Level, whose: Whose) -> list[str]:
    if level not in _NAMELESS:
        raise InputError(
            f"--anonymous has no place with --per {level}.", fix="It goes with --per user and --per tenant."
        )
    return ["tenant"] if level == "user" and whose.tenant is not None else []


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([_option(name) for name in names]) or "none of the names"
