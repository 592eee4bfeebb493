"""What the scripted model says. It answers from what its tools found, and from the conversation that it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from shipworthy import ModelRequest, ScriptedModel, ToolCall, ToolResult

HARBOR = (
    "We changed our plan in February, and invoice 1017 charged us twice. Is that a known fault?",
    "Then please refund the second charge of invoice 1017: 42.00.",
    "What have you done for us so far?",
)
NORTHWIND = (
    "Our export orders-7731.csv stops in the middle. What is wrong with it?",
    "Please open a ticket, so that somebody makes orders-7731.csv again.",
    "Which refunds have been made for us?",
)

Line = str | ToolCall | Sequence[str | ToolCall]


def scripted() -> ScriptedModel:
    """A model that knows these questions. One instance serves every run of every tenant: its turn is the request's."""
    return ScriptedModel([_next] * 8)


def _next(request: ModelRequest) -> Line:
    asked = next(message.text for message in reversed(request.messages) if message.role == "user")
    return _SCRIPTS[asked][request.ordinal](request)


def _look_up(commits: str, documents: str) -> Callable[[ModelRequest], Line]:
    def turn(request: ModelRequest) -> Line:
        calls = [ToolCall("search_documents", {"query": documents})]
        if any(spec.name == "search_commits" for spec in request.tools):
            calls.append(ToolCall("search_commits", {"query": commits}))
        return calls

    return turn


def _read_the_fix(request: ModelRequest) -> Line:
    commits = _found(request, "search_commits")
    if not commits:
        return "It looks like a fault, but without git I cannot see our code."
    return ToolCall("show_file", {"path": "billing/plans.py", "revision": commits[0].split()[0]})


def _known_fault(request: ModelRequest) -> Line:
    return f"Yes: {_found(request, 'search_commits')[0]}. From {_found(request, 'search_documents')[0]}"


def _from_documents(request: ModelRequest) -> Line:
    return f"From {_found(request, 'search_documents')[0]}"


def _history(request: ModelRequest) -> Line:
    done = [said for name in ("refund", "save_note", "open_ticket") for said in _results(request, name)]
    return " ".join(done) or "Nothing so far."


def _refunds(request: ModelRequest) -> Line:
    return " ".join(_results(request, "refund")) or "No refund appears in our conversation."


def _results(request: ModelRequest, tool: str) -> list[str]:
    """What the model was told of every call of this tool."""
    parts = [part for message in request.messages for part in message.parts]
    results = [part for part in parts if isinstance(part, ToolResult) and part.name == tool]
    return ["".join([getattr(text, "text", "") for text in result.content]) for result in results]


def _found(request: ModelRequest, tool: str) -> list[str]:
    """The hits of the latest search."""
    results = _results(request, tool)
    hits: Any = json.loads(results[-1]) if results else []
    return [str(hit) for hit in hits]


def _say(line: Line) -> Callable[[ModelRequest], Line]:
    return lambda request: line


_SCRIPTS: dict[str, tuple[Callable[[ModelRequest], Line], ...]] = {
    HARBOR[0]: (_look_up("charged twice", "charged twice for one invoice"), _read_the_fix, _known_fault),
    HARBOR[1]: (
        _say(["I refund it now. ", ToolCall("refund", {"invoice": "1017", "cents": 4200})]),
        _say(ToolCall("save_note", {"text": "Refunded the second charge of invoice 1017."})),
        _say("Done: the second charge of invoice 1017 is paid back."),
    ),
    HARBOR[2]: (_history,),
    NORTHWIND[0]: (_look_up("export", "export stops in the middle, last line"), _from_documents),
    NORTHWIND[1]: (
        _say(ToolCall("open_ticket", {"title": "Make orders-7731.csv again from the backup"})),
        _say("A ticket is open: an engineer makes orders-7731.csv again."),
    ),
    NORTHWIND[2]: (_refunds,),
}
