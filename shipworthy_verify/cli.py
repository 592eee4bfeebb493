"""The command line: 0 where all is well, 1 where it is not, 2 where it was called wrongly."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import proofs
from .files import verify_file
from .report import tell


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shipworthy-verify", description="Verify a shipworthy audit log.")
    parser.add_argument("log", nargs="?", help="the log's newest file")
    parser.add_argument("--secret-file", action="append", default=[], help="a file that holds a secret")
    parser.add_argument("--secret-env", action="append", default=[], help="a variable that holds a secret")
    parser.add_argument("--anchor", action="append", default=[], help="a file of anchored checkpoints")
    parser.add_argument("--expect-log", help="the id that the log should have")
    parser.add_argument("--no-bodies", action="store_true", help="do not judge bodies")
    parser.add_argument("--json", action="store_true", help="tell the result as JSON")
    parser.add_argument("--proof", help="a file that holds a proof")
    parser.add_argument(
        "--signer", action="append", help="the public key of a checkpoint's signer, in hex; may be repeated"
    )
    return parser


def _secrets(files: Sequence[str], names: Sequence[str]) -> list[bytes]:
    """Read the secrets. Raises ValueError where one is empty."""
    found = [Path(name).read_bytes().removesuffix(b"\n").removesuffix(b"\r") for name in files]
    found += [os.fsencode(os.environ.get(name, "")) for name in names]
    if not all(found):
        raise ValueError("a secret is empty, or its variable is not set")
    return found


def _answer(asked: argparse.Namespace) -> tuple[bool, str]:
    """Do what was asked for; give whether all is well, and what to print."""
    if asked.proof is not None:
        good, words = proofs.check(Path(asked.proof).read_bytes(), asked.signer)
        if asked.json:
            return good, json.dumps({"ok": good, "words": words})
        return good, f"{'ok' if good else 'not ok'}\n{words}"
    found = verify_file(
        asked.log,
        secrets=_secrets(asked.secret_file, asked.secret_env),
        anchors=asked.anchor,
        expected_log=asked.expect_log,
        bodies=not asked.no_bodies,
    )
    return found.ok, tell(found, asked.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    try:
        asked = parser.parse_args(argv)
        if (asked.log is None) == (asked.proof is None) or (asked.proof is None) != (asked.signer is None):
            parser.error("give a log, or --proof with --signer")
    except SystemExit as stopped:
        return int(stopped.code or 0)
    try:
        good, text = _answer(asked)
    except (OSError, ValueError) as error:
        print(f"shipworthy-verify: {error}", file=sys.stderr)
        return 2
    print(text.encode("ascii", "backslashreplace").decode())
    return 0 if good else 1
