"""How the demo looks: scenes, timelines and the table of claims, within 100 columns, with colours or without."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shipworthy.app.commands import timeline
from shipworthy.app.commands.printing import WIDTH, Printer
from shipworthy.app.demo.audited import SECRET
from shipworthy.app.demo.checks import Claim, Evidence
from shipworthy.domain.events import AnyEvent

_LONGEST = 240
_PAUSE = 0.35


class Show:
    """Tells the story on the terminal, or not at all with --json."""

    def __init__(self, printer: Printer, *, fast: bool) -> None:
        self._silent = printer.as_json
        self._pause = 0.0 if fast or not printer.interactive else _PAUSE
        if not self._silent:
            self._console: Any = printer.console
            self._console.width = min(self._console.width, WIDTH)

    def opening(self, model: str, folder: str, tools: str) -> None:
        self._print(f"A support desk with two tenants, {model} model, {tools}, SQLite journal")
        self._print(f"in {folder}", "dim")

    def scene(self, title: str) -> None:
        if not self._silent:
            self._console.print()
            self._console.rule(title, align="left", style="dim", characters="─")
            time.sleep(self._pause * 2)

    def say(self, who: str, what: str, *, style: str = "") -> None:
        if self._silent:
            return
        from rich.table import Table
        from rich.text import Text

        said = timeline.one_line(what)
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=10, no_wrap=True)
        grid.add_column()
        grid.add_row(Text(who, "bold"), Text(said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…", style))
        self._console.print(grid)
        time.sleep(self._pause)

    def journals(self, evidence: Evidence) -> None:
        """The journals of the runs that were killed."""
        shown = {(s.tenant, s.run_id) for s in evidence.sittings}
        for (tenant, run_id), events in evidence.journals.items():
            if (tenant, run_id) in shown and not self._silent:
                self.scene(f"The journal of {run_id}, of {tenant}")
                self._console.print(timeline.table(_events(events)))

    def claims(self, claims: Sequence[Claim]) -> None:
        if self._silent:
            return
        from rich.table import Table
        from rich.text import Text

        self.scene("Every claim, checked")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        for name, ratio in (("", None), ("claim", 10), ("how it was checked", 13), ("found", 9)):
            table.add_column(name, ratio=ratio, min_width=4 if ratio is None else None)
        for claim in claims:
            word, style = _VERDICTS[claim.ok]
            table.add_row(Text(word, style), claim.claim, Text(claim.how, "dim"), claim.figure)
        self._console.print(table)

    def closing(self, claims: Sequence[Claim], seconds: float, kept: str | None) -> None:
        failed = sum([claim.ok is False for claim in claims])
        held = sum([claim.ok is True for claim in claims])
        left = len(claims) - held - failed
        words = f"{held} of {len(claims)} claims hold" + (f", {failed} FAILED" if failed else "")
        words += f", {left} without an occasion" if left else ""
        self._print()
        self._print(f"{words}; {seconds:.1f} s.", "bold red" if failed else "bold green")
        if kept:
            self._print(
                f"Look around: shipworthy runs list --store sqlite:{kept}/support.db --tenant harbor", "dim"
            )
            verify = f"shipworthy audit verify sqlite:{kept}/support.db --secret-file {kept}/{SECRET}"
            self._print(f"The audit log: {verify}", "dim")

    def _print(self, text: str = "", style: str | None = None) -> None:
        if not self._silent:
            self._console.print(text, style=style, markup=False, soft_wrap=True)


_VERDICTS: Mapping[bool | None, tuple[str, str]] = {
    True: ("pass", "green"),
    False: ("FAIL", "bold red"),
    None: ("–", "dim"),
}


def _events(plain: Sequence[Mapping[str, Any]]) -> list[AnyEvent]:
    return msgspec.convert(plain, list[AnyEvent])
