"""Operations on the ledger as the server reads them (ledger.sql), and its answers in our words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from shipworthy.adapters.postgres.connection import Connection, of
from shipworthy.domain.ledger import (
    BudgetOp,
    Forget,
    Granted,
    Hold,
    Line,
    Outcome,
    Rate,
    Refused,
    Settled,
    Settlement,
)
from shipworthy.errors import StoreError, StoreFull

REFUSED = "SW001"
"""The SQLSTATE of a hold that is refused."""
PLACE = 5_000
"""Milliseconds for which who waits keeps its place without asking again."""
RATE = "rate"
"""The window of a counter that is a rate."""
EXPIRED_AT_ONCE = 1000
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Release(msgspec.Struct, frozen=True, gc=False):
    """A hold is given back, and its place in the order."""

    id: str
    tenant: str


class Renewal(msgspec.Struct, frozen=True, gc=False):
    """Holds are to expire later."""

    tenant: str
    ids: tuple[str, ...]
    ttl: int


Operation = BudgetOp | Release | Renewal


class Apply(msgspec.Struct, frozen=True, gc=False):
    """Operations without a batch. As a job's work it makes of the server's answer what its caller gets."""

    tenant: str
    operations: tuple[Operation, ...]

    def __call__(self, answer: tuple[str, int | None, str | None]) -> Outcome | Refused:
        fate, _, why = answer
        if fate == "landed":
            return outcomes(why)[0]
        if fate == REFUSED:
            return refusal(why)[0]
        kind = StoreFull if fate == "53100" else StoreError
        raise kind(f"The ledger failed ({fate}: {why}).", fix="Look at the server's log.")


class Group:
    """The operations of a group, and the counters that are to be locked for them, each once."""

    def __init__(self) -> None:
        self._drawn: dict[tuple[str, str], int] = {}
        self._counters: list[dict[str, Any]] = []
        self._holds: list[dict[str, str]] = []
        self._any = False

    def wanted(self) -> dict[str, Any] | None:
        """What is to be locked; None where there was no operation."""
        return {"counters": self._counters, "holds": self._holds} if self._any else None

    def rows(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """Operations as the server's type of this name has them. Raises ValueError for a counter that is another
        tenant's, and for a hold that is nobody's."""
        self._any = True
        return [self._row(operation) for operation in operations]

    def _row(self, operation: Operation) -> dict[str, Any]:
        match operation:
            case Hold():
                return self._hold(operation)
            case Settlement(id=id, tenant=tenant, amounts=amounts, rates=rates, note=note):
                self._holds.append({"tenant": tenant, "id": id})
                given = {"amounts": amounts, "used": rates, "note": _quoted(note)}
                return {"kind": "settlement", "tenant": tenant, "id": id, **given}
            case Release(id=id, tenant=tenant):
                self._holds.append({"tenant": tenant, "id": id})
                return {"kind": "release", "tenant": tenant, "id": id, "note": _quoted("")}
            case Renewal(tenant=tenant, ids=ids, ttl=ttl):
                return {"kind": "renewal", "tenant": tenant, "ids": ids, "ttl": ttl}
            case Forget(tenant=tenant, keys=keys):
                return {"kind": "forget", "tenant": tenant, "keys": keys}

    def _hold(self, hold: Hold) -> dict[str, Any]:
        if not hold.tenant:
            raise ValueError(f"hold {hold.id!r} has no tenant")
        row: dict[str, Any] = {
            "kind": "hold",
            "tenant": hold.tenant,
            "id": hold.id,
            "lines": [self._place(hold, line.key, line) for line in hold.lines],
            "caps": [line.cap for line in hold.lines],
            "softs": [line.soft for line in hold.lines],
            "base": hold.base,
            "each": hold.each,
            "least": hold.least,
            "most": hold.most,
            "ttl": hold.ttl,
            "final": hold.final,
            "place": PLACE if hold.patient else 0,
            "note": _quoted(hold.note),
        }
        if hold.rates:
            row["rates"] = [
                {
                    "line": self._place(hold, f"rate:{rate.key}", rate),
                    "limit": rate.limit,
                    "period": rate.period,
                    "burst": rate.burst,
                    "base": base,
                    "each": each,
                }
                for rate, base, each in zip(hold.rates, hold.rate_base, hold.rate_each, strict=True)
            ]
        return row

    def _place(self, hold: Hold, key: str, drawn: Line | Rate) -> int:
        """The place of a counter among those that are locked, from 1."""
        tenant = drawn.account.tenant
        place = self._drawn.get((tenant, key))
        if place is None:
            if tenant not in ("", hold.tenant):
                raise ValueError(
                    f"hold {hold.id!r} of tenant {hold.tenant!r} draws on a counter of another tenant"
                )
            self._counters.append(_counter(key, drawn))
            place = self._drawn[tenant, key] = len(self._counters)
        return place


def _counter(key: str, of: Line | Rate) -> dict[str, Any]:
    account = of.account
    named = {
        "tenant": account.tenant,
        "key": key,
        "level": account.level,
        "name": account.name,
        "unit": of.unit,
    }
    if type(of) is Line:
        return {**named, "limit": of.limit, "window": of.window, "start": of.start, "ends": of.end}
    return {**named, "limit": key, "window": RATE, "start": 0, "ends": 0}


def _quoted(note: str) -> str:
    return _encode(note).decode()


def outcomes(said: str | None) -> list[Outcome]:
    """What became of each operation of a batch that landed."""
    return [] if said is None else [_outcome(answer) for answer in _decode(said)]


def _outcome(answer: Any) -> Outcome:
    match answer:
        case ["granted", units, warned, near]:
            return Granted(units, tuple(warned), near)
        case ["settled", note, warned, known, units]:
            return Settled(note, tuple(warned), known, units)
        case _:
            return None


def refusal(said: str | None) -> tuple[Refused, bool]:
    """Why a hold was refused, and whether holds that have expired are in its way."""
    why, due = _decode(said or "")
    return Refused(*why), due


def expire(connection: Connection) -> int:
    """Charge some of the holds that expired, in a transaction. Gives how many."""
    with of(connection, "operator", "on"):
        return int(connection.execute("SELECT expire(%s)", (EXPIRED_AT_ONCE,)).fetchall()[0][0])
