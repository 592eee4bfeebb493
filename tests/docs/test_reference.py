"""The reference pages say what the code has: every event and field, error, public name, command and option.
Links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import shipworthy
from shipworthy import errors
from shipworthy.domain.events import AnyEvent, Event

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"--?[a-z][a-z-]*")


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def sections(text: str, level: int) -> dict[str, str]:
    """What stands under each heading of this level, by the first code span of the heading, or else its text."""
    parts = re.split(rf"^#{{{level}}} +(.+)$", text, flags=re.MULTILINE)
    names = [span[1] if (span := CODE.search(title)) else title for title in parts[1::2]]
    return dict(zip(names, parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in *text*, heads and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [
        row for i, row in enumerate(cells) if not _rule(row) and not (cells[i + 1 :] and _rule(cells[i + 1]))
    ]


def _rule(row: list[str]) -> bool:
    return all(set(cell) <= {"-", ":"} and cell for cell in row)


def first_cells(text: str) -> list[str]:
    """The code spans of the rows' first cells."""
    return [name for row in rows(text) for name in CODE.findall(row[0])]


# --- events -----------------------------------------------------------------------------------


def as_written(default: Any) -> str:
    if default is msgspec.NODEFAULT:
        return "required"
    if isinstance(default, msgspec.Struct):
        return "empty"
    return "None" if default is None else f'`"{default}"`' if isinstance(default, str) else f"`{default!r}`"


def drift_of_events(text: str) -> list[str]:
    """Where the page and the code differ; a field's default belongs to the format."""
    common = {field.name: as_written(field.default) for field in msgspec.structs.fields(Event)}
    expected = {"In every event": common}
    for kind in get_args(AnyEvent):
        own = {f.name: as_written(f.default) for f in msgspec.structs.fields(kind) if f.name not in common}
        expected[str(kind.__struct_config__.tag)] = own
    shown = sections(text, 2)
    tables = {"In every event": shown["In every event"], **sections(shown["Events"], 3)}
    found = {name: {CODE.findall(r[0])[0]: r[1] for r in rows(table)} for name, table in tables.items()}
    return [
        f"{name}: the code has {expected.get(name)}, the page {found.get(name)}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def test_the_page_has_every_event_with_its_fields_and_defaults() -> None:
    assert drift_of_events(page("events.md")) == []


# --- errors -----------------------------------------------------------------------------------


def drift_of_errors(text: str) -> list[str]:
    public = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    shown = {CODE.findall(row[0])[0]: row for row in rows(text)}
    wrong = sorted(public.keys() ^ shown.keys())
    for name in public.keys() & shown.keys():
        fix = public[name].__dict__.get("fix", "")
        if fix and shown[name][2].replace("\\|", "|") != fix:
            wrong.append(f"{name}: the fix is {fix!r}, the page says {shown[name][2]!r}")
    return wrong


def test_the_page_has_every_error_with_its_fix() -> None:
    assert drift_of_errors(page("errors.md")) == []


# --- public names -----------------------------------------------------------------------------


def drift_of_names(text: str) -> list[str]:
    shown = [CODE.findall(row[0])[0] for row in rows(sections(text, 2)["shipworthy"])]
    return sorted(set(shown) ^ set(shipworthy.__all__)) + [n for n in shown if shown.count(n) > 1]


def test_the_page_has_exactly_the_public_names() -> None:
    assert drift_of_names(page("api.md")) == []


# --- the command line -------------------------------------------------------------------------


def commands() -> dict[str, set[str]]:
    """Every command with its options, as typer has them."""
    import typer

    from shipworthy.app.cli import app

    found: dict[str, set[str]] = {}

    def visit(command: Any, path: str) -> None:
        if hasattr(command, "commands"):
            for name, sub in command.commands.items():
                visit(sub, f"{path} {name}".strip())
            return
        found[path] = {
            spelling
            for parameter in command.params
            for spelling in (*parameter.opts, *parameter.secondary_opts)
            if spelling.startswith("-") and spelling != "--help"
        }

    visit(typer.main.get_command(app), "")
    return found


def drift_of_commands(text: str) -> list[str]:
    shown = {
        name: set(OPTION.findall(" ".join(first_cells(section))))
        for name, section in sections(text, 2).items()
        if name != "What they share"
    }
    expected = commands()
    return [
        f"{name}: the code has {sorted(expected.get(name, ()))}, the page {sorted(shown.get(name, ()))}"
        for name in sorted(expected.keys() | shown.keys())
        if expected.get(name) != shown.get(name)
    ]


def test_the_page_has_every_command_with_its_options() -> None:
    assert drift_of_commands(page("cli.md")) == []


# --- links --------------------------------------------------------------------------------------


def broken_links(source: Path, text: str) -> list[str]:
    """Links to files that are not there, and to headings that no longer are."""
    prose = re.sub(r"^( *)(`{3,}).*?^\1\2$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [target for target in LINK.findall(prose) if not _leads_somewhere(source, target)]


def _leads_somewhere(source: Path, target: str) -> bool:
    if target.startswith(("https://", "http://")):
        return True
    name, _, anchor = target.partition("#")
    file = source.parent / name if name else source
    if not file.exists():
        return False
    return not anchor or anchor in _anchors(file.read_text(encoding="utf-8"))


def _anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("source", PAGES, ids=lambda source: str(source.relative_to(ROOT)))
def test_every_link_leads_somewhere(source: Path) -> None:
    assert broken_links(source, source.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "link", ["[x](guides/nowhere.md)", "[x](guides/tools.md#no-such-heading)", "[x](#nowhere)"]
)
def test_a_link_that_leads_nowhere_is_caught(link: str) -> None:
    assert broken_links(ROOT / "docs" / "README.md", f"See {link}.") != []


# --- the mutants: what these tests must catch -------------------------------------------------


@pytest.mark.parametrize(
    ("name", "drift", "old", "new"),
    [
        pytest.param(
            "events.md", drift_of_events, "| `thread_running` |", "| `thread_runs` |", id="field renamed"
        ),
        pytest.param("events.md", drift_of_events, "| `50` |", "| `51` |", id="default changed"),
        pytest.param("events.md", drift_of_events, "### `run_parked`", "### `run_waits`", id="event renamed"),
        pytest.param(
            "errors.md", drift_of_errors, "| `StoreFull` |", "| `StoreFilled` |", id="error renamed"
        ),
        pytest.param("errors.md", drift_of_errors, "| Rename one of them", "| Rename both", id="fix changed"),
        pytest.param("api.md", drift_of_names, "| `mock` |", "| `mocked` |", id="name renamed"),
        pytest.param(
            "api.md", drift_of_names, "| `Usage` |", "| `Unknown` |", id="name missing, another twice"
        ),
        pytest.param("cli.md", drift_of_commands, "| `--settle` |", "| `--decide` |", id="option renamed"),
        pytest.param(
            "cli.md", drift_of_commands, "## `runs prune`", "## `runs forget`", id="command renamed"
        ),
    ],
)
def test_a_page_that_says_something_else_is_caught(name: str, drift: Any, old: str, new: str) -> None:
    text = page(name)
    assert old in text
    assert drift(text.replace(old, new)) != []
