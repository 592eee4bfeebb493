"""The demo's claims, each checked on evidence that was gathered beside the run: pure functions, so that tests can give
them evidence that was tampered with."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from shipworthy import Message, ToolCall, ToolResult
from shipworthy.app.demo.audited import Copy
from shipworthy.app.demo.workers import Sitting

Journal = Sequence[Mapping[str, Any]]
Key = tuple[str, str]


class Probe(msgspec.Struct):
    """What a tenant was told of another's run, and of a run that nobody has."""

    tenant: str
    foreign: str
    foreign_answer: str
    unknown: str
    unknown_answer: str


class Evidence(msgspec.Struct, kw_only=True):
    """What was seen. Journals are the events as plain data, by tenant and run; `marks` are words that only one tenant
    ever said, and that no time or id contains by chance; `asked` the questions of each session in their order;
    `planned` the points where workers were to die."""

    sittings: list[Sitting]
    journals: dict[Key, list[dict[str, Any]]]
    ledger: list[dict[str, Any]]
    notes: dict[str, str]
    conversations: dict[str, list[Message]]
    asked: dict[str, list[str]]
    marks: dict[str, str]
    probes: list[Probe]
    planned: list[str]
    scripted: bool
    audit: Copy


class Claim(msgspec.Struct, frozen=True):
    """One claim: how it was checked, what was found, and whether it holds (None: this model gave no occasion)."""

    claim: str
    how: str
    figure: str
    ok: bool | None


def check(evidence: Evidence) -> list[Claim]:
    """Every claim, checked."""
    return [one(evidence) for one in _CHECKS]


def killed(e: Evidence) -> Claim:
    deaths = [s for s in e.sittings if s.killed_at is not None]
    at = sorted([str(s.killed_at) for s in deaths])
    by_signal = all([s.returncode == -signal.SIGKILL for s in deaths])
    ok = by_signal and (at == sorted(e.planned) or not e.scripted)
    return Claim(
        "Processes died at the worst moments",
        "exit status of each worker; it had told where it was",
        f"{len(deaths)} by SIGKILL: {', '.join(at) or 'none'}",
        _judged(ok, e, occasion=bool(deaths)),
    )


def resumed_elsewhere(e: Evidence) -> Claim:
    deaths = [(s, _after(e, s)) for s in e.sittings if s.killed_at is not None]
    elsewhere = [(s, n) for s, n in deaths if n is not None and n.pid != s.pid and n.pid and s.pid]
    takeovers = sum([x["previous"] == "dead" for _, x in _of_kind(e, "run_resumed")])
    ok = len(elsewhere) == len(deaths) == takeovers
    return Claim(
        "Another process went on",
        "the next worker's pid; the journal says that the one before it was dead",
        f"{len(elsewhere)} of {len(deaths)} pids differ, {takeovers} taken over",
        _judged(ok, e, occasion=bool(deaths)),
    )


def nothing_lost(e: Evidence) -> Claim:
    told = kept = 0
    for sitting in e.sittings:
        journal = {x["seq"]: x for x in e.journals.get((sitting.tenant, sitting.run_id), [])}
        for seen in sitting.seen:
            event = msgspec.json.decode(seen)
            told += 1
            kept += journal.get(event["seq"]) == event
    gaps = [key for key, j in e.journals.items() if [x["seq"] for x in j] != list(range(1, len(j) + 1))]
    return Claim(
        "Nothing acknowledged was lost",
        "each event that a worker streamed is in the journal, number and content",
        f"{kept} of {told} events" + (f"; gaps in {len(gaps)} journals" if gaps else ""),
        kept == told and not gaps and told > 0,
    )


def no_effect_twice(e: Evidence) -> Claim:
    expected = Counter({(key[0], call): _happened(journal, call) for journal, call, key in _calls(e, "once")})
    found = Counter([(entry["tenant"], entry["call"]) for entry in e.ledger])
    return Claim(
        "Each effect happened exactly once",
        "lines of the ledger, a file outside the journal, counted for each `once` call",
        f"{expected.total()} intended, {found.total()} in the ledger",
        _judged(found == expected, e, occasion=bool(expected or found)),
    )


def doubt_is_settled(e: Evidence) -> Claim:
    by: dict[str, int] = {"verify": 0, "person": 0}
    guessed = 0
    for journal, call_id, _ in _calls(e, "once"):
        open_attempt = False
        for event in [x for x in journal if x.get("call_id") == call_id]:
            if event["kind"] == "tool_attempted":
                guessed += open_attempt
                open_attempt = True
            elif event["kind"] == "tool_settled":
                by[event["by"]] += 1
                open_attempt = False
    ok = not guessed and (min(by.values()) > 0 or not e.scripted)
    occasion = guessed > 0 or any(by.values())
    return Claim(
        "An unknown outcome is settled, never guessed",
        "between two attempts of a `once` call the journal has a settlement",
        f"{by['verify']} by verify=, {by['person']} by a person, {guessed} guessed",
        _judged(ok, e, occasion=occasion),
    )


def idempotent_repeats(e: Evidence) -> Claim:
    calls = _calls(e, "idempotent")
    attempts = sum([_count(j, c, "tool_attempted") for j, c, _ in calls])
    done = sum([_count(j, c, "tool_returned", outcome="ok") for j, c, _ in calls])
    return Claim(
        "An idempotent call ran again, with one key",
        "attempts in the journal; notes in their folder, one for each key",
        f"calls: {len(calls)}, attempts: {attempts}, notes: {len(e.notes)}",
        _judged(done == len(e.notes), e, occasion=attempts > len(calls)),
    )


def finished_is_not_repeated(e: Evidence) -> Claim:
    finished = repeated = 0
    for sitting in [s for s in e.sittings if s.killed_at is not None]:
        seen = [msgspec.json.decode(event) for event in sitting.seen]
        last = max([x["seq"] for x in seen], default=0)
        later = [x for x in e.journals.get((sitting.tenant, sitting.run_id), []) if x["seq"] > last]
        done = [x for x in seen if x["kind"] in ("model_answered", "tool_returned")]
        finished += len(done)
        repeated += len([x for x in done if _done_again(x, later)])
    return Claim(
        "Finished steps were not done again",
        "answers and results from before each kill, looked for in what came after it",
        f"{repeated} of {finished} repeated",
        _judged(repeated == 0, e, occasion=finished > 0),
    )


def conversation_is_valid(e: Evidence) -> Claim:
    calls = wrong = 0
    for messages in e.conversations.values():
        for before, message, after in zip([None, *messages], messages, [*messages[1:], None], strict=False):
            asked, given = _ids(message, ToolCall), _ids(message, ToolResult)
            calls += len(asked)
            wrong += (bool(asked) and asked != _ids(after, ToolResult)) or (
                bool(given) and given != _ids(before, ToolCall)
            )
    return Claim(
        "The conversations are valid for any provider",
        "each tool call has its one result, in the next message",
        f"{calls} calls in {len(e.conversations)} sessions, {wrong} messages wrong",
        _judged(wrong == 0, e, occasion=calls > 0),
    )


def session_goes_on(e: Evidence) -> Claim:
    whole = 0
    for tenant, questions in e.asked.items():
        said = [m.text for m in e.conversations.get(tenant, []) if m.role == "user"]
        whole += said == questions
    return Claim(
        "The sessions went on after the crashes",
        "questions that the last run of each session was shown, in their order",
        f"{whole} of {len(e.asked)} sessions whole, {sum(map(len, e.asked.values()))} questions",
        whole == len(e.asked) > 0,
    )


def tenants_are_apart(e: Evidence) -> Claim:
    told = [p for p in e.probes if not _same_answer(p)]
    leaks = unsaid = 0
    for tenant, mark in e.marks.items():
        own = [journal for (owner, _), journal in e.journals.items() if owner == tenant]
        unsaid += mark not in msgspec.json.encode(own).decode()
        others = [j for (owner, _), j in e.journals.items() if owner != tenant]
        others += [msgspec.to_builtins(m) for owner, m in e.conversations.items() if owner != tenant]
        leaks += sum([mark in msgspec.json.encode(other).decode() for other in others])
    return Claim(
        "Tenants are apart",
        "asking for the other's run is answered as for one that nobody has; each other's words are looked for",
        f'{len(e.probes) - len(told)} of {len(e.probes)} told "no such run", {leaks} leaks',
        not told and not leaks and not unsaid and len(e.probes) > 0,
    )


def audit_log_is_whole(e: Evidence) -> Claim:
    report = e.audit.verified()
    intents: dict[tuple[str | None, Any], int] = {}
    for _, entry in e.audit.entries():
        if entry.action == "tool.attempted":
            intents.setdefault((entry.tenant, entry.facts.get("call")), entry.logged)
    before = [x for x in e.ledger if intents.get((x["tenant"], x["call"]), x["at"] + 1) <= x["at"]]
    return Claim(
        "The audit log verifies after the kills",
        "each entry's HMAC, the chain and the seal; an intent was entered before each line of the ledger",
        f"{report.verdict}: {report.entries} entries, {len(before)} of {len(e.ledger)} intents before",
        report.verdict == "ok" and len(before) == len(e.ledger) and report.entries > 1,
    )


def edited_entry_is_named(e: Evidence) -> Claim:
    """One byte of an entry is changed, in a copy: the intent of the first effect, or whatever is in the middle."""
    entries = list(e.audit.entries())
    calls = {(x["tenant"], x["call"]) for x in e.ledger}
    intents = [x for x in entries if (x[1].tenant, x[1].facts.get("call")) in calls]
    index, entry = next(iter(intents or entries[len(entries) // 2 :]), (0, None))
    lines = list(e.audit.lines)
    if entry is not None:
        lines[index] = lines[index].replace(f'"tenant":"{entry.tenant}"'.encode(), b'"tenant":"nobody"')
    report = msgspec.structs.replace(e.audit, lines=lines).verified()
    return Claim(
        "An edited entry is found and named",
        "in a copy of the log an entry is changed to say another tenant; the verifier is asked",
        f"{report.verdict}, entry {report.seq}: {'the one' if entry and report.seq == entry.seq else 'NOT it'}",
        entry is not None and (report.verdict, report.seq) == ("edited", entry.seq),
    )


_CHECKS: tuple[Callable[[Evidence], Claim], ...] = (
    killed,
    resumed_elsewhere,
    nothing_lost,
    no_effect_twice,
    doubt_is_settled,
    idempotent_repeats,
    finished_is_not_repeated,
    conversation_is_valid,
    session_goes_on,
    tenants_are_apart,
    audit_log_is_whole,
    edited_entry_is_named,
)


# reading the evidence


def _judged(ok: bool, e: Evidence, *, occasion: bool) -> bool | None:
    """The verdict. Without an occasion there is none, but the script has one for every claim."""
    return ok if occasion else False if e.scripted else None


def _after(e: Evidence, sitting: Sitting) -> Sitting | None:
    """The next sitting of the same run."""
    same = [s for s in e.sittings if (s.tenant, s.run_id) == (sitting.tenant, sitting.run_id)]
    at = next(i for i, s in enumerate(same) if s is sitting)
    return same[at + 1] if at + 1 < len(same) else None


def _of_kind(e: Evidence, kind: str) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    for key, journal in e.journals.items():
        for event in journal:
            if event["kind"] == kind:
                yield key, event


def _calls(e: Evidence, effect: str) -> list[tuple[Journal, str, Key]]:
    """Every call that was let run under this effect, once, with its journal."""
    found = {
        (key, c["call_id"]): None
        for key, x in _of_kind(e, "tools_judged")
        for c in x["calls"]
        if c["effect"] == effect
    }
    return [(e.journals[key], call_id, key) for key, call_id in found]


def _ids(message: Message | None, kind: type[ToolCall] | type[ToolResult]) -> list[str]:
    """The calls that a message asks for, or answers."""
    return sorted([part.call_id for part in message.parts if isinstance(part, kind)]) if message else []


def _done_again(event: Mapping[str, Any], later: Journal) -> bool:
    """Whether an answer was asked for again, or a call that had returned was made again."""
    if event["kind"] == "model_answered":
        return any([x["kind"] == event["kind"] and x["ordinal"] == event["ordinal"] for x in later])
    return any([x["kind"] == "tool_attempted" and x["call_id"] == event["call_id"] for x in later])


def _count(journal: Journal, call_id: str, kind: str, **fields: Any) -> int:
    found = [x for x in journal if x["kind"] == kind and x.get("call_id") == call_id]
    return len([x for x in found if all(x.get(name, "ok") == value for name, value in fields.items())])


def _happened(journal: Journal, call_id: str) -> int:
    """How often the effect happened, by the journal: 1 if it returned or was settled so, otherwise 0."""
    returned = _count(journal, call_id, "tool_returned", outcome="ok")
    settled = [
        x for x in journal if x["kind"] == "tool_settled" and x["call_id"] == call_id and x["happened"]
    ]
    return min(1, returned + len(settled))


def _same_answer(probe: Probe) -> bool:
    """Only the id may differ."""
    foreign = re.sub(re.escape(probe.foreign), "RUN", probe.foreign_answer)
    return foreign == re.sub(re.escape(probe.unknown), "RUN", probe.unknown_answer) and "no run" in foreign
