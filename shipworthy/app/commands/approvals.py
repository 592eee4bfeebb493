"""`shipworthy approvals`: what runs want to do that a person has to say yes to, and saying it."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Any

import msgspec
import typer

from shipworthy.app.commands.answering import command, on_it_goes, waiting_words
from shipworthy.app.commands.asked import Asked, Seen, of_tenant, one_of_run, seen_by
from shipworthy.app.commands.printing import OK, PAUSED, Printer
from shipworthy.app.commands.timeline import moment
from shipworthy.app.commands.visible import foreign, pretty, visible
from shipworthy.domain.grants import SigningKey
from shipworthy.domain.policy import Approve, Deny
from shipworthy.domain.scope import Operator, Scope
from shipworthy.engine.answering import Answering, shown_of
from shipworthy.engine.pending import pending_of
from shipworthy.engine.runtime import Runtime
from shipworthy.errors import ConfigurationError, InputError
from shipworthy.rules.approvals import canonical, digest_of, misfit_answer
from shipworthy.rules.state import replay
from shipworthy.rules.text import clean

_OPERATOR = Operator("shipworthy approvals keys")
_SHORT, _PARTS = 2_000, 40
"""Characters of one part, and parts, of what a run had seen, that are shown without --full."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Which(msgspec.Struct, frozen=True):
    """Which call is meant."""

    scope: Scope
    run_id: str
    address: str | None


class Said(msgspec.Struct, frozen=True):
    """An answer, as the options have it. `yes`: do not ask for confirmation."""

    by: str | None
    yes: bool
    arguments: str | None = None
    remember: str | None = None
    covers: str = "arguments"
    expires_in: str | None = None
    reason: str = ""


# looking


async def listing(printer: Printer, runtime: Runtime, scope: Scope) -> int:
    """What waits for a yes, of one tenant."""
    found = [each async for each in of_tenant(runtime.store, scope)]
    if printer.as_json:
        printer.emit({"approvals": [data_of(each) for each in found]})
        return OK
    for each in found:
        _say_head(printer, each)
        printer.say()
    more = f"{command('approvals', 'show', '--tenant', scope.tenant)} --run RUN"
    printer.say(f"{len(found)} waiting. More of one: {more}" if found else "Nothing waits for approval.")
    return OK


async def show(printer: Printer, runtime: Runtime, which: Which, *, full: bool) -> int:
    """One call, with its exact arguments and what the run had seen."""
    asked = await one_of_run(runtime.store, which.scope, which.run_id, which.address)
    seen = await seen_by(runtime.store, asked)
    if printer.as_json:
        parts = [
            {
                "run_id": s.run_id,
                "role": s.role,
                "origin": s.origin,
                "trust": "trusted" if s.trusted else "untrusted",
                "earlier": s.earlier,
                "text": s.text,
            }
            for s in seen
        ]
        printer.emit({"approval": data_of(asked) | {"seen": parts}})
        return OK
    _say_head(printer, asked)
    _say_arguments(printer, asked.waiting.arguments, asked.waiting.digest)
    _say_seen(printer, seen, full=full)
    return OK


# answering


async def approve(printer: Printer, runtime: Runtime, which: Which, said: Said) -> int:
    """Say yes to one call, with exactly the arguments that are shown."""
    edited = None if said.arguments is None else _arguments(said.arguments)
    lasts = None if said.expires_in is None else _seconds(said.expires_in)
    asked = await _look(printer, runtime, which)
    if edited is not None and not printer.as_json:
        printer.say("\nIt is to be made with these arguments instead:")
        _say_arguments(printer, edited[1], digest_of(edited[1]))
    answer = Approve(
        by=_who(printer, said),
        arguments=None if edited is None else edited[0],
        remember=said.remember,  # type: ignore[arg-type]
        covers=said.covers,  # type: ignore[arg-type]
        expires_in=lasts,
    )
    _check(answer)
    _confirm(printer, said, f"Approve it as {visible(answer.by)!r}{_wider(said)}?")
    return await _answer(printer, runtime, asked, answer)


async def deny(printer: Printer, runtime: Runtime, which: Which, said: Said) -> int:
    """Say no to one call; the model is told the reason."""
    asked = await _look(printer, runtime, which)
    answer = Deny(by=_who(printer, said), reason=clean(said.reason))
    _check(answer)
    _confirm(printer, said, f"Deny it as {visible(answer.by)!r}?")
    return await _answer(printer, runtime, asked, answer)


async def _look(printer: Printer, runtime: Runtime, which: Which) -> Asked:
    """The call that is answered, shown to whoever answers. Raises InputError where no answer from here could count."""
    asked = await one_of_run(runtime.store, which.scope, which.run_id, which.address)
    key = asked.waiting.key
    if key and key not in [known.id for known in await runtime.keyring.all(key)]:
        raise InputError(
            f"The agent's process signs with the key {key}, which is not among those here: it would not believe an "
            "answer that is signed with another one.",
            fix="Pass --key-file with the keys that its runtime is given as signing_keys=, or --agent module:agent. "
            "If that key is no longer in use: `shipworthy runs resume`, and it is asked for again.",
        )
    if not printer.as_json:
        _say_head(printer, asked)
        _say_arguments(printer, asked.waiting.arguments, asked.waiting.digest)
    return asked


async def _answer(printer: Printer, runtime: Runtime, asked: Asked, answer: Approve | Deny) -> int:
    scope, address = Scope(asked.scope.tenant), asked.waiting.address
    taking = Answering(runtime, scope, asked.run_id, shown=shown_of(asked.waiting), address=address)
    await taking.take(answer)
    state = replay(await runtime.store.read(scope, asked.run_id))
    left = [each for each in await pending_of(runtime.store, state) if each.kind != "in_doubt"]
    code = PAUSED if left else OK
    if printer.as_json:
        done = {"run_id": asked.run_id, "address": address, "by": answer.by, "digest": asked.waiting.digest}
        printer.emit({"approved" if isinstance(answer, Approve) else "denied": done, "waiting": left})
        return code
    verb = "Approved" if isinstance(answer, Approve) else "Denied"
    printer.say(f"\n{verb} by {visible(answer.by)}.")
    for each in left:
        for line in waiting_words(each, asked.run_id, asked.scope.tenant):
            printer.say(line)
    if not left:
        printer.say(on_it_goes(asked.run_id, asked.scope.tenant))
    return code


def _wider(said: Said) -> str:
    if said.remember is None:
        return ""
    calls = "whatever the arguments" if said.covers == "tool" else "with these arguments"
    return f", and every later call of the tool {calls}, of this {said.remember}"


def _who(printer: Printer, said: Said) -> str:
    """Who answers: named, or asked for; never guessed."""
    if said.by is not None:
        return said.by
    if printer.as_json or not sys.stdin.isatty():
        raise typer.BadParameter("--by has to name who answers: it is signed")
    named: str = typer.prompt("Who answers? It is signed", default=os.environ.get("USER") or None, err=True)
    return named


def _confirm(printer: Printer, said: Said, question: str) -> None:
    if said.yes:
        return
    if printer.as_json or not sys.stdin.isatty():
        raise InputError(f"{question} Nobody is there to say so.", fix="Pass --yes.")
    typer.confirm(question, abort=True, err=True)


def _check(answer: Approve | Deny) -> None:
    if (wrong := misfit_answer(answer)) is not None:
        raise InputError(f"This is no answer: {wrong}.", fix="Correct the option of that name.")


def _arguments(text: str) -> tuple[dict[str, Any], str]:
    found = canonical(clean(text))
    if found is None:
        raise InputError(
            "--arguments is no JSON object.", fix="Write all of them: --arguments '{\"amount\": 50}'."
        )
    return found


def _seconds(text: str) -> float:
    if found := re.fullmatch(r"(\d{1,9})([smhdw]?)", text.strip()):
        return float(int(found[1]) * _UNITS[found[2] or "s"])
    raise InputError(f"--expires-in {text!r} is no time.", fix="Write 90s, 30m, 12h or 7d.")


# keys


async def keys(printer: Printer, runtime: Runtime, *, rotate: bool) -> int:
    """The names of the keys, newest first, and whose they are."""
    own = runtime.keyring.own
    if rotate and not own:
        raise ConfigurationError(
            "These keys were set, so that the store's are not in use.",
            fix="Put a new one first in signing_keys=, in every process, and leave the old ones behind it for as long "
            "as approvals and checkpoints that they signed are to stand.",
        )
    if rotate:
        await runtime.store.rotate_signing_key(_OPERATOR)
    found = runtime.keyring.given or tuple(await runtime.store.signing_keys())
    if printer.as_json:
        listed = [{"id": key.id, "made_at": key.made_at or None} for key in found]
        printer.emit({"keys": listed, "set": not own, "rotated": rotate})
        return OK
    for number, key in enumerate(found):
        use = "signs" if number == 0 else "verifies"
        printer.say(f"{key.id}  {use:8}  {_age(key)}")
    printer.say(
        "\nThe store made them, and keeps them beside the runs. signing_keys= of the runtime sets others."
        if own
        else "\nThey were set: the store's own are not in use."
    )
    return OK


def _age(key: SigningKey) -> str:
    if not key.made_at:
        return "set"
    days = max(0, time.time_ns() // 1_000_000 - key.made_at) // 86_400_000
    return f"made {moment(key.made_at)}, {days} days ago"


# how it is shown


def data_of(asked: Asked) -> dict[str, Any]:
    """A call that waits, as JSON has it."""
    waiting = asked.waiting
    return {
        "run_id": asked.run_id,
        "address": waiting.address,
        "tenant": asked.scope.tenant,
        "user": asked.scope.user,
        "session": asked.scope.session,
        "agents": waiting.agents,
        "tool": waiting.tool,
        "effect": waiting.effect,
        "arguments": msgspec.Raw(asked.waiting.arguments.encode()),
        "digest": waiting.digest,
        "asked_at": asked.since,
        "rule": waiting.rule,
        "policy": waiting.policy,
        "reason": waiting.reason,
        "approvers": waiting.approvers,
        "among": waiting.among,
        "approved_by": waiting.approved_by,
        "expires_at": waiting.expires_at,
        "key": asked.waiting.key,
    }


def _line(text: str) -> str:
    """On one line, with everything in it to be seen."""
    return visible(text).replace("\n", "\\n")


def _say_head(printer: Printer, asked: Asked) -> None:
    """Who, what, since when, why, how many of how many, until when."""
    waiting = asked.waiting
    who = " / ".join([part for part in (asked.scope.tenant, asked.scope.user, asked.scope.session) if part])
    among = f", of {', '.join(waiting.among)}" if waiting.among else ""
    yes = f" ({', '.join(waiting.approved_by)})" if waiting.approved_by else ""
    expires = "never" if waiting.expires_at is None else moment(waiting.expires_at)
    say = {
        "run": f"{asked.run_id}, of {who}",
        "call": f"{waiting.tool} ({waiting.effect}), by {' > '.join(waiting.agents)}",
        "address": waiting.address,
        "asked": f"{moment(asked.since)}, by rule {waiting.rule}, policy {waiting.policy or 'none'}",
        "why": waiting.reason,
        "approvals": f"{len(waiting.approved_by)} of {waiting.approvers}{yes}{among}",
        "expires": expires,
    }
    for name, text in say.items():
        printer.say(f"{name:10} {_line(text)}")


def _say_arguments(printer: Printer, arguments: str, digest: str) -> None:
    """All of them, whatever they are."""
    printer.say(f"\narguments, all of them (digest {digest}):")
    _quote(printer, pretty(arguments))
    others = [*foreign(msgspec.json.decode(arguments))]
    if others:
        printer.say("in ASCII, what is not: letters can look like others")
        _quote(printer, "\n".join([f"{place}: {text}" for place, text in others]))


def _say_seen(printer: Printer, seen: list[Seen], *, full: bool) -> None:
    """The conversation. What may not be obeyed says so."""
    left_out = 0 if full else max(0, len(seen) - _PARTS)
    printer.say("\nwhat the run had seen:")
    if left_out:
        printer.say(f"[{left_out} earlier parts are left out; --full shows them]")
    for part in seen[left_out:]:
        marks = [part.origin, *([] if part.trusted else ["untrusted"])]
        marks += ["earlier in the session"] if part.earlier else []
        printer.say(f"{part.role} ({_line(', '.join(marks))}), run {_line(part.run_id)}")
        text = part.text if full else part.text[:_SHORT]
        _quote(printer, visible(text))
        if len(text) < len(part.text):
            printer.say(
                f"  [cut: the first {_SHORT:,} of {len(part.text):,} characters; --full shows all of them]"
            )


def _quote(printer: Printer, text: str) -> None:
    """Behind a bar, line by line, so that no text passes for something that this command says."""
    for line in text.split("\n"):
        printer.say(f"  | {line}")
