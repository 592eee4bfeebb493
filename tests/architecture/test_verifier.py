"""The separate verifier stands alone: written from the page of the format, it imports nothing of the framework."""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "shipworthy_verify"


def imported(source: str) -> set[str]:
    """The names of the packages that a module imports, its own left out."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


def test_it_imports_the_standard_library_and_cryptography_alone() -> None:
    modules = sorted(PACKAGE.glob("*.py"))
    assert len(modules) > 5
    foreign = {name for module in modules for name in imported(module.read_text())} - sys.stdlib_module_names
    assert foreign <= {"cryptography"}


def test_an_import_of_the_framework_is_seen() -> None:
    assert imported("def f():\n    from shipworthy.rules.audit import form") == {"shipworthy"}
