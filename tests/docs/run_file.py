"""Runs the blocks of one Markdown page, in order, in one namespace and one event loop. Takes the path.

Code is compiled under the page's own name and line numbers, so that a traceback points into the page.
"""

import ast
import asyncio
import inspect
import os
import shlex
import subprocess
import sys
import sysconfig
import traceback
import types
from pathlib import Path

from extract import PYTHON, BadMarker, Block, runnable


class CommandFailed(Exception):
    """A console line that is not ours to run, or that exited with another status than 0."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def run_python(block: Block, page: Path, namespace: dict[str, object], loop: asyncio.Runner) -> None:
    """A block with an `await` at top level runs on the page's loop; any other runs outside a loop."""
    source = "\n" * (block.line - 1) + block.source
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(code, namespace)
    if inspect.iscoroutine(result):
        loop.run(result)


def run_console(block: Block) -> None:
    """Each `$ shipworthy ...` line, with this environment's command; lines without `$` are its output."""
    scripts = sysconfig.get_path("scripts")
    for line, text in enumerate(block.source.splitlines(), start=block.line):
        if not text.startswith("$ "):
            continue
        command = shlex.split(text.removeprefix("$ "), comments=True)
        if command[:1] != ["shipworthy"]:
            raise CommandFailed(line, f"only `shipworthy` commands are run, not `{text}`")
        done = subprocess.run([f"{scripts}/shipworthy", *command[1:]], capture_output=True, text=True)
        if done.returncode != 0:
            raise CommandFailed(line, f"exit status {done.returncode}\n{done.stdout}{done.stderr}")


def run_page(page: Path) -> None:
    """Ends the process with `file:line: what happened` at the first block that fails."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        blocks = runnable(page)
    except BadMarker as error:
        sys.exit(str(error))
    with asyncio.Runner() as loop:
        for block in blocks:
            try:
                if block.language in PYTHON:
                    run_python(block, page, vars(module), loop)
                else:
                    run_console(block)
            except (Exception, SystemExit) as error:
                where, what = f"{page}:{line_of(error, block, page)}", f"{type(error).__name__}: {error}"
                sys.exit("\n".join([f"{where}: {what}", "", *traceback.format_exception(error)]))
    print(f"{len(blocks)} blocks ran")


def line_of(error: BaseException, block: Block, page: Path) -> int:
    """The line of *page* at which *block* failed; for an error raised further in, the line that led there."""
    if isinstance(error, CommandFailed):
        return error.line
    if isinstance(error, SyntaxError) and error.filename == str(page) and error.lineno:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next(
        (frame.lineno for frame in frames if frame.filename == str(page) and frame.lineno), block.line
    )


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # a page sees its own folder, not this one
    run_page(Path(sys.argv[1]))
