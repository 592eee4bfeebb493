"""The demo's agent: a support desk for Tidewatch, a small web shop service. Written as a user would write it.

Each tool says what repeating it means. Two of them must never happen twice: for a refund, the ledger can tell
afterwards whether it happened; for a ticket nobody can, so that a person is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shipworthy import Agent, DidNotHappen, Happened, ModelRetry, NotDone, RunContext, SqliteRuntime, tool
from shipworthy.app.demo.desk import Documents, Ledger, Notes, Repository


@dataclass
class Desk:
    """What the tools work with; they get it as `ctx.deps`."""

    ledger: Ledger
    notes: Notes
    documents: Documents
    repository: Repository | None


Context = RunContext[Desk]


@tool(effect="read")
def search_documents(ctx: Context, query: str) -> list[str]:
    """Search our policies and help pages."""
    return ctx.deps.documents.search(query)


@tool(effect="read")
def search_commits(ctx: Context, query: str) -> list[str]:
    """Search the history of our product's code. Each hit begins with its revision."""
    assert ctx.deps.repository is not None
    return ctx.deps.repository.search(query)


@tool(effect="read")
def show_file(ctx: Context, path: str, revision: str = "HEAD") -> str:
    """A file of our product's code, as it was at a revision."""
    assert ctx.deps.repository is not None
    try:
        return ctx.deps.repository.show(path, revision)
    except LookupError as error:
        raise ModelRetry(f"{error}. Use a revision that search_commits gave, and a path in it.") from None


@tool(effect="idempotent")
def save_note(ctx: Context, text: str) -> str:
    """Save a note on this customer for our colleagues."""
    ctx.deps.notes.write(ctx.idempotency_key, f"{ctx.scope.tenant}: {text}")
    return "Saved."


def refunded(ctx: Context, args: Any) -> Happened | DidNotHappen:
    """Asked after a crash in the middle of a refund: did it happen?"""
    if ctx.deps.ledger.find(ctx.idempotency_key) is None:
        return DidNotHappen()
    return Happened(f"Refunded {args.cents / 100:.2f} on invoice {args.invoice}.")


@tool(effect="once", verify=refunded)
def refund(ctx: Context, invoice: str, cents: int) -> str:
    """Pay back an amount of an invoice."""
    if not 0 < cents <= 10_000:
        raise NotDone("Only refunds of up to 100.00 are made here.")
    details = {"tenant": ctx.scope.tenant, "call": ctx.call_id, "invoice": invoice, "cents": cents}
    ctx.deps.ledger.append("refund", ctx.idempotency_key, **details)
    return f"Refunded {cents / 100:.2f} on invoice {invoice}."


@tool(effect="once")
def open_ticket(ctx: Context, title: str) -> str:
    """Open a ticket, so that an engineer looks at it."""
    details = {"tenant": ctx.scope.tenant, "call": ctx.call_id, "title": title}
    ctx.deps.ledger.append("open_ticket", ctx.idempotency_key, **details)
    return f"Opened: {title}"


def support_agent(model: Any, database: str, desk: Desk, audit_log: Any) -> Agent[Desk, str]:
    """The agent, on a SQLite file, with its audit log. One object serves every tenant."""
    tools: list[Any] = [search_documents, save_note, refund, open_ticket]
    if desk.repository is not None:
        tools += [search_commits, show_file]
    return Agent(
        "You are the support desk of Tidewatch. Look things up before you answer, say where you found them, and be "
        "brief. Refund or open a ticket only when the customer asks for it; save a note after a refund.",
        model=model,
        tools=tools,
        runtime=SqliteRuntime(database),
        name="support",
        deps=lambda scope: desk,
        deps_type=Desk,
        audit_log=audit_log,
    )
