"""The demo's folder: a real git repository with real commits, real documents, a database and a ledger."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from shipworthy.app.demo import audited
from shipworthy.app.demo.desk import Documents, Ledger, Notes, Repository, git
from shipworthy.app.demo.support import Desk

_PLANS = '''"""What a change of plan costs."""


def charge_for_change(old: int, new: int, days_left: int) -> int:
    """Cents due now when a shop changes from a plan of *old* cents a month to one of *new*."""
{body}
'''
_EXPORTS = '''"""Orders as CSV."""


def export(orders, file, batch={batch}):
    for start in range(0, len(orders), batch):
        file.writelines(line(order) for order in orders[start : start + batch])
    file.write(f"{{len(orders)}} rows\\n")
'''

_COMMITS = (
    (
        "2026-02-03T09:12:00Z",
        "Let shops change their plan in the middle of a month",
        "billing/plans.py",
        _PLANS.format(body="    return new"),
    ),
    (
        "2026-02-17T14:40:00Z",
        "Export orders in batches, so that large shops do not run out of memory",
        "exports/orders.py",
        _EXPORTS.format(batch=5000),
    ),
    (
        "2026-03-02T08:05:00Z",
        "Fix shops being charged twice when they change their plan",
        "billing/plans.py",
        _PLANS.format(body="    return max(0, (new - old) * days_left // 30)"),
    ),
    (
        "2026-03-09T16:21:00Z",
        "Export smaller batches: the mail server cuts long ones off",
        "exports/orders.py",
        _EXPORTS.format(batch=500),
    ),
)


def build(folder: Path) -> Desk:
    """Make everything in *folder*, which is empty or not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    audited.make_secret(folder)
    documents = folder / "documents"
    documents.mkdir()
    for source in resources.files("shipworthy.app.demo").joinpath("documents").iterdir():
        documents.joinpath(source.name).write_text(source.read_text("utf-8"), "utf-8")
    if shutil.which("git"):
        _commit_all(folder / "tidewatch")
    return desk_in(folder)


def desk_in(folder: Path) -> Desk:
    """The desk of a folder that was built."""
    code = folder / "tidewatch"
    return Desk(
        ledger=Ledger(folder / "ledger.jsonl"),
        notes=Notes(folder / "notes"),
        documents=Documents(folder / "documents"),
        repository=Repository(code) if code.is_dir() else None,
    )


def database_in(folder: Path) -> str:
    return str(folder / "support.db")


def _commit_all(code: Path) -> None:
    code.mkdir()
    git(code, "-c", "init.defaultBranch=main", "init", "--quiet")
    for at, message, name, text in _COMMITS:
        path = code / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        git(code, "add", "--all")
        git(code, "commit", "--quiet", "--message", message, at=at)
