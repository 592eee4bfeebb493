"""The laws: memory agrees with the journals, to the letter, and with what an uncrashed world has.

Pure functions over what lies in the journals and what memory gave.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shipworthy.app.learning import Proposals
from shipworthy.domain.events import (
    AnyEvent,
    FactsLearned,
    MemoryWritten,
    ModelAnswered,
    RunEnded,
    RunStarted,
)
from shipworthy.domain.memory import Episode, Fact
from shipworthy.domain.messages import Text
from shipworthy.rules.learning import learning_of
from tests.crash.checks import Journal, Violation
from tests.memory.crash.child import Item, Outcome
from tests.memory.crash.scenario import TIMES, Saying, booked, names_of

SAID_IN = {"user": RunStarted, "assistant": ModelAnswered}


class Seen(msgspec.Struct):
    """What is known of a world: its journals, and what memory has."""

    tenant: str
    sayings: Sequence[Saying]
    journal: Journal
    outcome: Outcome

    def events(self, run_id: str) -> list[AnyEvent]:
        run = self.journal.get((self.tenant, run_id))
        return [] if run is None else run.events

    def the(self, run_id: str, kind: type[Any]) -> list[Any]:
        return [event for event in self.events(run_id) if type(event) is kind]

    @property
    def episodes(self) -> dict[str, Episode]:
        return {i.item.id: i.item for i in self.outcome.items if isinstance(i.item, Episode)}

    @property
    def facts(self) -> dict[str, Fact]:
        return {i.item.id: i.item for i in self.outcome.items if isinstance(i.item, Fact)}


def violations(seen: Seen, expected: Sequence[str] | None) -> list[Violation]:
    """What is broken, where all runs have come to their end."""
    found = [Violation("lost", seen.outcome.error)] if seen.outcome.error else []
    for saying in seen.sayings:
        found += _remembered(seen, saying)
        found += _learned(seen, saying)
    found += _nothing_else(seen)
    found += _counted_once(seen)
    if not found and expected is not None and (other := {*told(seen)} ^ {*expected}):
        found.append(Violation("different", f"not as where nobody died: {sorted(other)}"))
    return found


def episode_ids(seen: Seen, run_id: str) -> list[str]:
    """Those that follow from the run."""
    return [f"{digest_of(seen, run_id)}:{slot}" for slot in ("user", "tool0", "assistant")]


def digest_of(seen: Seen, run_id: str) -> str:
    """What names a run in ids: no other run has it that is given the same id when this one's journal is gone."""
    [started] = seen.the(run_id, RunStarted) or [None]
    return "" if started is None else hashlib.sha256(f"{started.at}:{run_id}".encode()).hexdigest()[:32]


def _remembered(seen: Seen, saying: Saying) -> list[Violation]:
    """A run that ended has its episodes, once each, with the texts of its journal."""
    ended, written = seen.the(saying.run, RunEnded), seen.the(saying.run, MemoryWritten)
    if len(ended) != 1 or len(written) != 1 or ended[0].status != "completed":
        return [
            Violation("lost", f"{saying.run} ended {len(ended)} times and was written {len(written)} times")
        ]
    ids = episode_ids(seen, saying.run)
    learning = learning_of(seen.tenant, saying.run)
    if (list(written[0].ids), written[0].problem, written[0].learning) != (ids, "", learning):
        return [Violation("different", f"{saying.run} was written as {written[0]}")]
    assert type(ended[0].output) is Text
    answer = msgspec.json.decode(ended[0].output.text, type=str)
    what = booked(saying.text)
    texts = [saying.text, f'book({{"what":"{what}"}}): Booked {what}.', answer]
    found: list[Violation] = []
    for id, text in zip(ids, texts, strict=True):
        if (episode := seen.episodes.get(id)) is None:
            found.append(Violation("lost", f"{saying.run} has no episode {id}: {text}"))
        elif episode.text != text:
            found.append(Violation("invalid", f"the journal has {text!r} and memory {episode.text!r}"))
        elif not _leads_there(seen, episode):
            found.append(Violation("invalid", f"{episode} is not from where it says"))
    return found


def _leads_there(seen: Seen, episode: Episode) -> bool:
    """Whether its source is the event of its run that it was said in."""
    if episode.source is None:
        return False
    events = seen.events(episode.source.run_id)
    said_in = type(events[episode.source.seq - 1]) if episode.source.seq <= len(events) else None
    return episode.role not in SAID_IN or said_in is SAID_IN[episode.role]


def _learned(seen: Seen, saying: Saying) -> list[Violation]:
    """Its learning run ended, once, and what that says of facts is so."""
    run_id = learning_of(seen.tenant, saying.run)
    ended, learned = seen.the(run_id, RunEnded), seen.the(run_id, FactsLearned)
    if len(ended) != 1 or len(learned) != 1 or ended[0].status != "completed":
        return [
            Violation("lost", f"learning of {saying.run}: {len(ended)} ends, learned {len(learned)} times")
        ]
    facts, event, found = seen.facts, learned[0], list[Violation]()
    proposed = msgspec.json.decode(ended[0].output.text, type=Proposals).facts
    fates = [*event.added, *event.confirmed, *event.quarantined]
    if len(fates) != len(proposed):
        found.append(Violation("lost", f"of {len(proposed)} facts of {saying.run} {len(fates)} were learned"))
    of_proposals = {(p.subject, p.predicate, p.object) for p in proposed}
    for id in fates:
        if (fact := facts.get(id)) is None:
            found.append(Violation("lost", f"{saying.run} learned {id}, which is not there"))
        elif (fact.subject, fact.predicate, fact.object) not in of_proposals:
            found.append(Violation("invalid", f"{saying.run} has not said {fact.text!r}"))
    for id in event.superseded:
        if id not in facts or facts[id].superseded_at is None:
            found.append(Violation("lost", f"{id} was superseded by {saying.run}, and is not"))
    return found


def _nothing_else(seen: Seen) -> list[Violation]:
    """Nothing is there that no journal names, and no run is there twice."""
    named = {id for saying in seen.sayings for id in episode_ids(seen, saying.run)}
    superseded: Counter[str] = Counter()
    for saying in seen.sayings:
        for event in seen.the(learning_of(seen.tenant, saying.run), FactsLearned):
            named |= {*event.added, *event.confirmed, *event.quarantined}
            superseded.update(event.superseded)
    found = [Violation("repeated", f"{id} is of no run") for id in {*seen.episodes, *seen.facts} - named]
    gone = {fact.id for fact in seen.facts.values() if fact.superseded_at is not None}
    found += [Violation("lost", f"no run says that it superseded {id}") for id in gone - {*superseded}]
    found += [
        Violation("repeated", f"{id} was superseded {n} times") for id, n in superseded.items() if n > 1
    ]
    items = Counter([(each.scope, each.item.id) for each in seen.outcome.items])
    found += [Violation("repeated", f"{key} is there {n} times") for key, n in items.items() if n > 1]
    runs = len([key for key in seen.journal if key[0] == seen.tenant])
    if runs > 2 * len(seen.sayings):
        found.append(Violation("repeated", f"{runs} runs for {len(seen.sayings)} sayings"))
    return found


def _counted_once(seen: Seen) -> list[Violation]:
    """Each run that said a fact is once among its sources, and made it surer once."""
    said: dict[str, list[str]] = {}
    for saying in seen.sayings:
        for event in seen.the(learning_of(seen.tenant, saying.run), FactsLearned):
            for id in (*event.added, *event.confirmed, *event.quarantined):
                said.setdefault(id, []).append(saying.run)
    found: list[Violation] = []
    for id, fact in seen.facts.items():
        runs = said.get(id, [])
        if Counter([source.run_id for source in fact.sources]) != Counter(runs):
            found.append(
                Violation("repeated", f"{fact.text!r} has sources {fact.sources}, and {runs} said it")
            )
        elif abs(fact.confidence - (1 - 0.1 ** len(runs))) > 1e-9:
            found.append(
                Violation("repeated", f"{fact.text!r} is {fact.confidence} sure after {len(runs)} runs")
            )
    return found


def told(seen: Seen) -> list[str]:
    """What memory has, as worlds are compared: without times, and without what depends on how often the model was
    asked."""
    names = _names(seen)
    return sorted([_line(each, names) for each in seen.outcome.items])


def _names(seen: Seen) -> Mapping[str, str]:
    runs = {run: name for each in seen.sayings for run, name in names_of(seen.tenant, [each.run]).items()}
    return {digest_of(seen, run): name for run, name in runs.items()}


def _line(each: Item, names: Mapping[str, str]) -> str:
    item = each.item
    line: list[Any] = [
        each.scope.user,
        each.scope.session,
        item.id,
        TIMES.sub("", item.text),
        item.origin,
        item.trust,
    ]
    if isinstance(item, Episode):
        line += [item.role, item.session, item.source and item.source.run_id]
    else:
        over, sources = item.valid_to is not None, [source.run_id for source in item.sources]
        line += [item.superseded_by, item.single, item.quarantined, round(item.confidence, 9), over, sources]
    words = repr(line)
    for digest, run in names.items():
        words = words.replace(digest, run)
    return words
