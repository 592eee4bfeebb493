"""Finding what says whose it is, in Python and in SQL, and loading an adapter from which one such thing was taken away.

What is found is found mechanically: every part of a scope that the code of an adapter uses, everything that is put into
a key, and every condition of a statement that names a partition.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

WHOSE = re.compile(r"\b(tenant|user|session|place|places|partition|key|within|beyond|operator)\b")
"""Words that name a partition in a statement."""
_CLAUSE = re.compile(r"\b(WHERE|ON)\b(?!\s+(CONFLICT|true)\b)")
_END = re.compile(r"\b(ORDER BY|GROUP BY|LIMIT|RETURNING|WHERE|LEFT|JOIN|UNION|DO|FOR UPDATE|ON CONFLICT)\b")
_PAGING = re.compile(r"%\(after\)b|^key > \?$|\bCASE\b|\bTHEN\b")


class Edit(NamedTuple):
    """Something that is taken away: where (a module's name, or that of a statement), from where to where in its text,
    and what comes instead."""

    where: str
    start: int
    end: int
    instead: str
    what: str

    def __str__(self) -> str:
        what = " ".join(self.what.split())
        return f"{self.where}: {what if len(what) < 80 else what[:30] + ' ... ' + what[-30:]}"


# SQL


def conditions(where: str, sql: str, true: str, offset: int = 0, *, whose: bool = True) -> list[Edit]:
    """Each condition of each WHERE and ON that names a partition; what pages is not one. Or those that name none."""
    found: list[Edit] = []
    for clause in _CLAUSE.finditer(sql):
        for start, end in _conjuncts(sql, clause.end()):
            what = sql[start:end]
            outside = re.sub(r"\((?:[^()]|\([^()]*\))*\bSELECT\b.*\)", "()", what, flags=re.DOTALL)
            if bool(WHOSE.search(outside)) == whose and not _PAGING.search(outside):
                bound = [f" OR {value} IS NULL" for value in re.findall(r"\?\d*", what)]
                instead = f"({true}{''.join(bound)})" if bound else true
                found.append(Edit(where, offset + start, offset + end, instead, what))
    return found


def stamps(where: str, sql: str, what: str, instead: str) -> list[Edit]:
    """Each place where a statement writes or binds what the pattern *what* is, other than in its conditions."""
    asked = [(edit.start, edit.end) for edit in conditions(where, sql, "")]
    return [
        Edit(where, found.start(), found.end(), instead, found.group())
        for found in re.finditer(what, sql)
        if not any(start <= found.start() < end for start, end in asked)
    ]


def _conjuncts(sql: str, at: int) -> Iterator[tuple[int, int]]:
    """From where to where each condition of the clause is that begins here."""
    depth, start = 0, at
    for token in re.finditer(r"[()]|\bAND\b|\"\"\"|;|$|" + _END.pattern, sql[at:]):
        said, place = token.group(), at + token.start()
        if said == "(":
            depth += 1
        elif said == ")" and depth:
            depth -= 1
        elif not depth:
            yield _stripped(sql, start, place)
            if said != "AND":
                return
            start = place + len(said)


def _stripped(sql: str, start: int, end: int) -> tuple[int, int]:
    text = sql[start:end]
    return start + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))


# Python


def scope_parts(module: str, source: str, *, apart_from: Sequence[str] = ()) -> list[Edit]:
    """Each use of a scope's tenant, user or session, but for those in functions that make no key."""
    tree = ast.parse(source)
    asked = {id(node.left) for node in ast.walk(tree) if isinstance(node, ast.Compare)}
    return [
        _edit(module, source, node, "None" if id(node) in asked and node.attr != "tenant" else '""')
        for node, function in _nodes(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("tenant", "user", "session")
        and isinstance(node.value, ast.Name)
        and node.value.id == "scope"
        and function not in apart_from
    ]


def put_in(module: str, source: str, function: str) -> list[Edit]:
    """Each thing that a function puts into a text."""
    return [
        _edit(module, source, value, "{''}")
        for node, within in _nodes(ast.parse(source))
        if within == function and isinstance(node, ast.JoinedStr)
        for value in node.values
        if isinstance(value, ast.FormattedValue)
    ]


def named(module: str, source: str, was: str, instead: str) -> Edit:
    """The one place where a text has *was*."""
    assert source.count(was) == 1, f"{module} has {was!r} {source.count(was)} times"
    start = source.index(was)
    return Edit(module, start, start + len(was), instead, was)


def statements_in(module: str, source: str, true: str) -> list[Edit]:
    """The conditions of every statement that a module has among its texts."""
    found: list[Edit] = []
    tree = ast.parse(source)
    documented = {id(doc) for node in ast.walk(tree) if (doc := _docstring(node))}
    for node in ast.walk(tree):
        text = isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        if not text or id(node) in documented or not hasattr(node, "lineno"):
            continue
        start, end = _span(source, node)  # type: ignore[arg-type]
        found += conditions(module, source[start:end].rstrip("\"'"), true, start)
    return sorted(set(found), key=lambda edit: (edit.start, edit.end))


def _docstring(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    first = node.body[0] if node.body else None
    return first.value if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else None


def _nodes(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node, with the name of the function that it is in."""
    for child in ast.iter_child_nodes(tree):
        inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield child, inner
        yield from _nodes(child, inner)


def _edit(module: str, source: str, node: ast.expr, instead: str, what: str = "") -> Edit:
    start, end = _span(source, node)
    return Edit(module, start, end, instead, what or source[start:end])


def _span(source: str, node: ast.expr) -> tuple[int, int]:
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None

    def at(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)


# loading


def source_of(module: str) -> str:
    """A module's text."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text("utf-8")


@contextmanager
def loaded(modules: Sequence[str], edits: Sequence[Edit]) -> Iterator[ModuleType]:
    """The last one of *modules*, which import one another in this order, all made anew with the edits: nobody else sees
    them."""
    before = {name: sys.modules.get(name) for name in modules}
    try:
        for name in modules:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, module)
            text = applied(source_of(name), [edit for edit in edits if edit.where == name])
            exec(compile(text, spec.origin, "exec"), module.__dict__)
        yield sys.modules[modules[-1]]
    finally:
        for name, was in before.items():
            parent, _, child = name.rpartition(".")
            if was is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = was
                setattr(sys.modules[parent], child, was)


def applied(text: str, edits: Sequence[Edit]) -> str:
    """The text with the edits made."""
    for edit in sorted(edits, key=lambda one: one.start, reverse=True):
        text = text[: edit.start] + edit.instead + text[edit.end :]
    return text


_NO_MUTANT = re.compile(
    r"syntax error|no such column|unrecognized token|does not exist|incomplete input|Bindings"
)


def is_killed(error: BaseException) -> bool:
    """Whether this is how an attack finds a mutant, and not how a text is refused that means nothing."""
    meaningless = isinstance(error, SyntaxError | NameError | AttributeError)
    return isinstance(error, Exception) and not meaningless and not _NO_MUTANT.search(str(error))
