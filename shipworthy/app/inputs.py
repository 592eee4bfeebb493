"""What callers pass, checked and made into values, before anything is started."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from shipworthy.domain.messages import USER, File, Image, Message, Text, ToolCall, ToolResult, UserPart
from shipworthy.domain.pausing import Checkpoint
from shipworthy.domain.results import RunResult
from shipworthy.domain.scope import ANONYMOUS, ERASED_RUN, LONGEST_ID, Scope, is_too_long
from shipworthy.engine.sessions import without_memory
from shipworthy.errors import (
    CheckpointRefused,
    EmptyPrompt,
    IdentityMissing,
    IdentityWarning,
    InvalidHistory,
    InvalidOption,
    InvalidPrompt,
)
from shipworthy.rules.learning import PREFIX as LEARNING
from shipworthy.rules.text import clean
from shipworthy.rules.values import misfit, misfit_part

_SHORTER = f"Pass at most {LONGEST_ID} bytes of UTF-8: a name, a key, or a digest of what is longer."

Prompt = str | Text | Image | File | Sequence[str | Text | Image | File]


def scope_of(
    tenant_id: str | None, user_id: str | None, session_id: str | None, *, default: str | None, required: bool
) -> Scope:
    """The identity of a call. Whoever names nobody gets a fresh scope that nobody else has."""
    for name, value in (("tenant_id", tenant_id), ("user_id", user_id), ("session_id", session_id)):
        _check_new(name, value)
    tenant = default if tenant_id is None else tenant_id
    if session_id is not None and user_id is None:
        raise IdentityMissing("session_id was given without user_id.")
    if tenant is None:
        if user_id is not None:
            raise IdentityMissing("user_id was given without tenant_id.")
        if required:
            raise IdentityMissing("This agent requires an identity, and the call named nobody.")
        warnings.warn(
            "A run that names no tenant gets a fresh anonymous scope: nothing it keeps is found again. "
            "Pass tenant_id= (and user_id=, session_id=), or build the Agent with tenant_id=.",
            IdentityWarning,
            stacklevel=4,
        )
        return Scope(ANONYMOUS + os.urandom(16).hex())
    if tenant_id is not None and tenant_id.startswith(ANONYMOUS):
        raise IdentityMissing(f"tenant_id {tenant_id!r} is reserved for anonymous runs.")
    return Scope(tenant, user_id, session_id)


def scope_of_run(
    run: str | Checkpoint | Mapping[str, Any] | RunResult[Any], tenant_id: str | None, default: str | None
) -> tuple[Scope, str, Checkpoint | None]:
    """The tenant and the id under which a run is found, and the checkpoint if that was brought. Raises IdentityMissing,
    CheckpointRefused."""
    if isinstance(run, RunResult):
        if tenant_id is not None and tenant_id != run.tenant_id:
            raise IdentityMissing("tenant_id is not that of the result.", fix="Leave tenant_id out.")
        return Scope(run.tenant_id), run.run_id, None
    _check_id("tenant_id", tenant_id)
    tenant = tenant_id or default
    if isinstance(run, Mapping):
        return _checkpoint_of(run, tenant)
    if tenant is None:
        raise IdentityMissing("A run is found by its tenant and its id, and tenant_id is missing.")
    if (run_id := run_id_of(run)) is None:
        raise InvalidPrompt("run_id is missing.", fix="Pass the id of the run.")
    return Scope(tenant), run_id, None


def _checkpoint_of(given: Mapping[str, Any], tenant: str | None) -> tuple[Scope, str, Checkpoint]:
    """Whose run a checkpoint is about, by its own words: whoever uses it checks the signature first."""
    from shipworthy.rules.approvals import Forged, read_checkpoint

    try:
        made = read_checkpoint(given)
        _check_id("tenant_id", made["tenant_id"])
        run_id = run_id_of(made["run_id"])
    except (Forged, IdentityMissing, InvalidPrompt):
        raise CheckpointRefused from None
    if run_id is None or (tenant is not None and tenant != made["tenant_id"]):
        raise CheckpointRefused
    return Scope(made["tenant_id"]), run_id, made


def _check_id(name: str, value: str | None) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise IdentityMissing(f"{name} is a {type(value).__name__}, not a str.")
    if not value.strip():
        raise IdentityMissing(f"{name} is empty.")
    if clean(value) != value or "\x00" in value:
        raise IdentityMissing(f"{name} has characters that cannot be stored.")


def _check_new(name: str, value: str | None) -> None:
    """An id under which runs may be begun. A run that is kept under a longer one can still be found."""
    _check_id(name, value)
    if is_too_long(value):
        raise IdentityMissing(f"{name} is too long for some stores.", fix=_SHORTER)


def tenant_of(tenant_id: str | None) -> str | None:
    """The tenant that an agent works for. Raises IdentityMissing."""
    _check_new("tenant_id", tenant_id)
    return tenant_id


def run_id_of(run_id: str | None) -> str | None:
    """A caller's run id, if it can be stored."""
    if run_id is None:
        return None
    if not isinstance(run_id, str) or not run_id.strip() or clean(run_id) != run_id or "\x00" in run_id:
        raise InvalidPrompt(
            f"run_id {run_id!r} is not a text that can be stored.", fix="Pass a non-empty str."
        )
    return run_id


def new_run_id(run_id: str | None) -> str | None:
    """The id of a run that may be begun. Raises InvalidPrompt."""
    if is_too_long(run_id_of(run_id)):
        raise InvalidPrompt("run_id is too long for some stores.", fix=_SHORTER)
    if run_id is not None and run_id.startswith(ERASED_RUN):
        raise InvalidPrompt(f"run_id={run_id!r} is that of an erased run.", fix="Choose another one.")
    if run_id is not None and run_id.startswith(LEARNING):
        raise InvalidPrompt(
            f"run_id={run_id!r} is reserved for runs that learn facts.",
            fix=f"Choose one that does not begin with {LEARNING!r}.",
        )
    return run_id


def sequence_number(after: int) -> int:
    """Where a stream goes on. Raises InvalidOption."""
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        what = f"after={after!r} is not a sequence number."
        raise InvalidOption(what, fix="Pass the seq of the last event seen, or 0.")
    return after


def nothing_but_a_run_id(*given: Any) -> None:
    """What a stream that only follows a run cannot use. Raises InvalidOption."""
    if any([option is not None for option in given]):
        raise InvalidOption(
            "A stream without a prompt only follows a run.",
            fix="Pass run_id= and tenant_id=, and after= if need be.",
        )


def prompt_of(prompt: Prompt) -> tuple[UserPart, ...]:
    """A prompt's parts. Raises EmptyPrompt, InvalidPrompt."""
    parts = [prompt] if isinstance(prompt, (str, Text, Image, File)) else prompt
    if not isinstance(parts, Sequence) or isinstance(parts, (bytes, bytearray)):
        raise InvalidPrompt(f"The prompt is a {type(prompt).__name__}.")
    made = tuple([_part(part) for part in parts])
    if not any([not isinstance(part, Text) or part.text.strip() for part in made]):
        raise EmptyPrompt("The prompt is empty.")
    return made


def _part(part: Any) -> UserPart:
    if isinstance(part, str):
        part = Text(part)
    if not isinstance(part, (Text, Image, File)):
        raise InvalidPrompt(f"The prompt has a part of type {type(part).__name__}.")
    if type(part) is Text and part.origin == USER and part.trust == "trusted" and type(part.text) is str:
        if clean(part.text) == part.text:
            return part
        raise InvalidPrompt("The prompt has text that is not valid Unicode (lone surrogates).")
    if (wrong := misfit_part(part)) is not None:
        raise InvalidPrompt(f"The prompt has {type(part).__name__} that cannot be kept: {wrong}.")
    return part


def history_of(history: Sequence[Message] | None, scope: Scope) -> tuple[Message, ...]:
    """An explicit conversation to go on from, without what memory gave to the runs of it: the next one is given its
    own. Raises InvalidHistory."""
    if not history:
        return ()
    if scope.session is not None:
        raise InvalidHistory(
            "message_history and session_id were both given.",
            fix="Pass one: the session continues from the journal by itself.",
        )
    if not isinstance(history, Sequence) or not all([isinstance(m, Message) for m in history]):
        raise InvalidHistory("message_history has items that are not Message.", fix="Pass result.messages.")
    if (wrong := misfit(tuple(history), tuple[Message, ...])) is not None:
        raise InvalidHistory(f"message_history cannot be kept: {wrong}.", fix="Pass result.messages.")
    _check_calls(history)
    return tuple([without_memory(message) for message in history])


def _check_calls(history: Sequence[Message]) -> None:
    """Every tool call has its one result in the next message."""
    for i, message in enumerate(history):
        calls = [p.call_id for p in message.parts if isinstance(p, ToolCall)]
        after = history[i + 1].parts if calls and i + 1 < len(history) else ()
        results = [p.call_id for p in after if isinstance(p, ToolResult)]
        if sorted(calls) != sorted(results) and calls:
            raise InvalidHistory(
                f"Message {i} of message_history has tool calls without their one result.",
                fix="Pass the whole result.messages of an earlier run.",
            )
        orphans = any([isinstance(p, ToolResult) for p in message.parts]) and (
            i == 0 or not any([isinstance(p, ToolCall) for p in history[i - 1].parts])
        )
        if orphans:
            raise InvalidHistory(
                f"Message {i} of message_history has results of calls that are not there.",
                fix="Pass the whole result.messages of an earlier run.",
            )
