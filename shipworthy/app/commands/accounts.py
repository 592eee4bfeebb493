"""A ledger's counters and changes, for people and as JSON."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from shipworthy.app.commands.printing import Printer
from shipworthy.app.commands.timeline import moment, one_line
from shipworthy.domain.ledger import NANO, Account, Balance, Change, Unit, Window
from shipworthy.domain.scope import ANONYMOUS, Scope
from shipworthy.rules.decide import shown_amount

WINDOWS: tuple[Window, ...] = ("hour", "day", "month", "total", "run")
_SHOWN = {"hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}


class Row(NamedTuple):
    """A counter, and the cap that is in force, None where it is not known here."""

    balance: Balance
    cap: int | None

    @property
    def used(self) -> float | None:
        """The part of the cap that is spent."""
        if self.cap is None:
            return None
        return self.balance.spent / self.cap if self.cap else 1.0

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        it = self.balance
        return {
            **account_data(it.account),
            "unit": it.unit,
            "window": it.window,
            "start": it.start or None,
            "spent": number(it.unit, it.spent),
            "held": number(it.unit, it.held),
            "cap": number(it.unit, self.cap),
            "overridden": it.cap is not None,
            "used": self.used,
        }


def latest(balances: Sequence[Balance]) -> list[Balance]:
    """Of each account's counters of a kind, that of the latest window."""
    found: dict[tuple[Account, Unit, Window], Balance] = {}
    for each in balances:
        key = each.account, each.unit, each.window
        if key not in found or each.start > found[key].start:
            found[key] = each
    return list(found.values())


# accounts


def scope_of(account: Account) -> Scope | None:
    """Whose account it is, if it is that of one tenant, user or session and names it in full."""
    name = _parts(account)
    if account.level not in ("user", "tenant", "session") or (account.level == "session" and name[0] is None):
        return None
    return Scope(account.tenant or ANONYMOUS, *([] if name == [ANONYMOUS] else name))


def account_data(account: Account) -> dict[str, Any]:
    """Who it is, as JSON has it. `anonymous`: runs that name no user, or no tenant either."""
    name, level = _parts(account), account.level
    is_nobody = name[:1] == [ANONYMOUS] if not account.tenant else level == "user" and name == [None]
    user = name[0] if level in ("user", "session") and not is_nobody else None
    return {
        "per": level,
        "tenant": account.tenant or None,
        "user": user,
        "session": name[1] if level == "session" and user is not None else None,
        "run_id": name[-1] if level == "run" or (level == "session" and user is None) else None,
        "agent": name[0] if level == "agent" else None,
        "anonymous": is_nobody,
    }


def who(account: Account, *, across: bool) -> str:
    """Who it is, in words; the tenant is named where one looks *across* tenants."""
    it = account_data(account)
    if it["anonymous"]:
        name = "runs that name nobody" if it["tenant"] is None else "runs without a user"
    elif account.level in ("tenant", "global"):
        return f"tenant {account.tenant}" if account.level == "tenant" else "everybody"
    else:
        parts = [it[key] for key in ("user", "session", "run_id", "agent") if it[key] is not None]
        name = f"{account.level} {' / '.join(parts)}"
    return f"{name} of {it['tenant']}" if across and it["tenant"] is not None else name


def _parts(account: Account) -> list[Any]:
    parts = msgspec.json.decode(account.name) if account.name else []
    return parts if isinstance(parts, list) else []


# amounts and windows


def number(unit: Unit, value: int | None) -> float | int | None:
    """An amount for JSON, money in US dollars."""
    return value if value is None or unit != "cost_usd" else value / NANO


def amount(unit: Unit, value: int) -> str:
    """An amount for people."""
    return shown_amount(unit, value) if unit == "cost_usd" else f"{value:,}"


def window_words(window: Window, start: int, zone: str | None) -> str:
    """A window with its start by the clocks of *zone*, or of this machine."""
    if window not in _SHOWN or not start:
        return window
    began = datetime.datetime.fromtimestamp(start / 1000, None if zone is None else ZoneInfo(zone))
    is_midnight = (began.hour, began.minute) == (0, 0)
    plain = is_midnight and (window != "month" or began.day == 1)
    return f"{window} {began.strftime(_SHOWN[window] if plain else _SHOWN['hour'])}"


# for people


def say(printer: Printer, rows: Sequence[Row], zone: str | None, *, across: bool = False) -> None:
    """Counters as a table."""
    table = _table(
        "who", "unit", "window", "spent", "held", "cap", "used", right=("spent", "held", "cap", "used")
    )
    for row in rows:
        it = row.balance
        cap = "" if row.cap is None else amount(it.unit, row.cap)
        used = "" if row.used is None else f"{row.used:.1%}"
        started = window_words(it.window, it.start, zone)
        spent, held = amount(it.unit, it.spent), amount(it.unit, it.held)
        mark = "" if it.cap is None else " *"
        table.add_row(
            one_line(who(it.account, across=across)), it.unit, started, spent, held, cap + mark, used
        )
    printer.console.print(table)
    if any([row.balance.cap is not None for row in rows]):
        printer.say("* set by an operator")
    if any([row.cap is None for row in rows]):
        printer.say("A cap that is not shown is in the agent's budget: name the agent to see it.")
    if any([row.balance.start for row in rows]):
        printer.say(f"Windows begin by the clocks of {zone or 'this machine'}.")


def say_changes(printer: Printer, changes: Sequence[Change]) -> None:
    """What operators did, newest first."""
    table = _table("changed", "by", "what", "why")
    for each in changes:
        table.add_row(moment(each.at), one_line(each.who), one_line(_what(each)), one_line(each.why))
    printer.console.print(table)


def _what(change: Change) -> str:
    counter = f"{who(change.account, across=False)}, {change.unit} ({change.window})"
    if change.action == "reset":
        return f"{counter}: {amount(change.unit, change.amount or 0)} taken back to 0"
    if change.amount is None:
        return f"{counter}: the configured cap again"
    return f"{counter}: cap {amount(change.unit, change.amount)}"


def change_data(change: Change) -> dict[str, Any]:
    """A change as JSON has it."""
    kind = {"at": change.at, "action": change.action, **account_data(change.account)}
    said = {"unit": change.unit, "window": change.window, "amount": number(change.unit, change.amount)}
    return {**kind, **said, "by": change.who, "why": change.why}


def _table(*columns: str, right: Sequence[str] = ()) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return table
