"""What a command says, and where: results on stdout, everything else on stderr. JSON is one document, or one a line."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec

from shipworthy.errors import ShipworthyError

OK, ERROR, USAGE, PAUSED, STOPPED, INTERRUPTED = 0, 1, 2, 3, 4, 130
WIDTH = 100
"""Columns where the terminal does not say how many it has."""


class Printer:
    """One command's way to its caller."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._out = sys.stdout
        self.interactive = not as_json and self._out.isatty()
        self._console: Any = None

    def emit(self, value: Any) -> None:
        """One JSON document, on a line of its own."""
        self.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")

    def write(self, text: str) -> None:
        """Text as it is."""
        self._out.write(text)
        self._out.flush()

    @property
    def console(self) -> Any:
        """The terminal, for people."""
        if self._console is None:
            self._console = console(self._out)
        return self._console

    def say(self, text: str = "", style: str | None = None, end: str = "\n") -> None:
        """Text for people, as it is: nothing in it is taken for markup."""
        said = safe(str(text)) if self._out.isatty() else str(text)
        self.console.print(said, style=style, end=end, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def user_code(self) -> Iterator[None]:
        """While the user's code runs, its prints must not get between the documents on stdout."""
        if not self.as_json:
            yield
            return
        with contextlib.redirect_stdout(sys.stderr):
            yield


def console(file: Any) -> Any:
    """A rich console that is as wide as the terminal, or WIDTH, and shows text as it is, in tables too."""
    from rich.console import Console

    return Console(
        file=file, width=None if file.isatty() else WIDTH, highlight=False, markup=False, emoji=False
    )


def note(text: str) -> None:
    """A remark, on stderr."""
    print(safe(text), file=sys.stderr, flush=True)


def safe(text: str) -> str:
    """*text* without what a terminal would obey: a model's words must not move its cursor or set its title."""
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text])


def failed(error: BaseException, printer: Printer) -> int:
    """Say what went wrong and what to do about it; gives the exit code."""
    what = _storable(error.what if isinstance(error, ShipworthyError) else str(error))
    fix = error.fix if isinstance(error, ShipworthyError) else ""
    if not isinstance(error, ShipworthyError):
        traceback.print_exception(error)
    if printer.as_json:
        printer.emit({"error": {"type": type(error).__name__, "what": what, "fix": fix or None}})
        return ERROR
    name = "" if isinstance(error, ShipworthyError) else f"{type(error).__name__}: "
    err = console(sys.stderr)
    err.print(safe(f"error: {name}{what}"), style="red", markup=False, soft_wrap=True)
    if fix:
        err.print(f"  fix: {fix}", markup=False, soft_wrap=True)
    return ERROR


def _storable(text: str) -> str:
    """*text* as valid Unicode: arguments that were not are quoted in errors."""
    return text.encode("utf-8", "backslashreplace").decode()


def misused(message: str, printer: Printer) -> int:
    """Say how the command was misused; gives the exit code."""
    if printer.as_json:
        printer.emit({"error": {"type": "UsageError", "what": _storable(message), "fix": None}})
    elif message:  # without one, the help was printed
        note(f"error: {message}")
    return USAGE


def quiet_logs() -> None:
    """Logs and warnings on stderr, a line each."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )

    def show(
        message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        note(f"warning: {message}")

    warnings.showwarning = show
