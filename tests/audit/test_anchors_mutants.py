"""The laws of an anchor catch anchors that are broken: one law is named for each, and must fail. Each law is there for
one of them at least."""

from __future__ import annotations

import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest

from shipworthy.adapters.inmemory.anchor import InMemoryAnchor
from shipworthy.domain.audit import TreeHead
from shipworthy.errors import AnchorError, AnchorRefused
from shipworthy.ports.anchors import Anchor
from shipworthy.rules.audit.form import head_of
from shipworthy.testing.contracts.anchors import LAWS, Anchors, check, name

CAUGHT_BY = {name(law): law for law in LAWS}


class Mutant:
    """A dictionary that keeps checkpoints, broken at one place. `caught`: the law that it breaks."""

    where = "a broken anchor"
    caught: ClassVar[str]

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.kept: dict[tuple[str, str], dict[int, bytes]] = {}

    def place(self, name: str, log: str) -> tuple[str, str]:
        return name, log

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        with self.lock:
            kept = self.kept.setdefault(self.place(name, log), {})
            self.check(head(name, log, entries, line), kept)
            self.add(kept, entries, line)

    def check(self, new: TreeHead, kept: dict[int, bytes]) -> None:
        there = kept.get(new.entries)
        if there is None:
            if kept and max(kept) > new.entries:
                raise AnchorRefused("It would go back.")
        elif root(there) != new.root:
            raise AnchorRefused("It would go back.")

    def add(self, kept: dict[int, bytes], entries: int, line: bytes) -> None:
        kept.setdefault(entries, line)

    def of(self, name: str) -> list[dict[int, bytes]]:
        return [kept for (of, _), kept in self.kept.items() if kept and of == self.place(name, "")[0]]

    def newest(self, name: str) -> Sequence[bytes]:
        return [kept[max(kept)] for kept in self.of(name)]

    def all(self, name: str) -> Iterator[bytes]:
        return iter([kept[entries] for kept in self.of(name) for entries in sorted(kept)])

    def close(self) -> None:
        pass


def head(name: str, log: str, entries: int, line: bytes) -> TreeHead:
    read = head_of(line)
    if line.endswith(b"\n") or read is None or read[0].v != 1:
        raise AnchorError("It is no checkpoint.", fix="Send one.")
    if (read[0].name, read[0].log, read[0].entries) != (name, log, entries):
        raise AnchorError("It is another one.", fix="Send that.")
    return read[0]


def root(line: bytes) -> str:
    read = head_of(line)
    assert read is not None
    return read[0].root


class Overwrites(Mutant):
    caught = "another_history_is_refused"

    def check(self, new: TreeHead, kept: dict[int, bytes]) -> None:
        if new.entries not in kept:
            super().check(new, kept)

    def add(self, kept: dict[int, bytes], entries: int, line: bytes) -> None:
        kept[entries] = line


class LooksAtTheNewestOnly(Mutant):
    caught = "another_history_is_refused"

    def check(self, new: TreeHead, kept: dict[int, bytes]) -> None:
        if new.entries not in kept or new.entries == max(kept):
            super().check(new, kept)


class GoesBack(Mutant):
    caught = "a_shorter_one_is_refused"

    def check(self, new: TreeHead, kept: dict[int, bytes]) -> None:
        if new.entries in kept:
            super().check(new, kept)


class BeginsAnewWhenItGoesBack(Mutant):
    caught = "a_shorter_one_is_refused"

    def check(self, new: TreeHead, kept: dict[int, bytes]) -> None:
        if kept and max(kept) > new.entries and new.entries not in kept:
            kept.clear()


class ComparesLines(Mutant):
    caught = "the_same_again_does_nothing"

    def check(self, new: TreeHead, kept: dict[int, bytes]) -> None:
        super().check(new, kept)
        there = kept.get(new.entries)
        if there is not None and f'"at":{new.at},'.encode() not in there:
            raise AnchorRefused("It would go back.")


class RefusesWhatIsOlder(Mutant):
    caught = "the_same_again_does_nothing"

    def check(self, new: TreeHead, kept: dict[int, bytes]) -> None:
        super().check(new, kept)
        if kept and max(kept) > new.entries:
            raise AnchorRefused("It would go back.")


class KeepsTheNewestOnly(Mutant):
    caught = "what_was_put_is_there_for_everybody"

    def add(self, kept: dict[int, bytes], entries: int, line: bytes) -> None:
        kept.clear()
        kept[entries] = line


class SortsByDigits(Mutant):
    caught = "many_are_kept_in_their_order"

    def all(self, name: str) -> Iterator[bytes]:
        return iter([kept[entries] for kept in self.of(name) for entries in sorted(kept, key=str)])


class SaysNothingOfItself(Mutant):
    caught = "it_says_where_it_is"
    where = " "


class TakesJunk(Mutant):
    caught = "what_is_no_checkpoint_is_refused"

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        try:
            super().put(name, log, entries, line)
        except AnchorRefused:
            raise
        except AnchorError:
            return


class KnowsNoNames(Mutant):
    caught = "there_is_nothing_at_first"

    def place(self, name: str, log: str) -> tuple[str, str]:
        return "", log


class FoldsNames(Mutant):
    caught = "names_are_kept_apart"

    def place(self, name: str, log: str) -> tuple[str, str]:
        return name.casefold(), log


class NormalisesNames(Mutant):
    caught = "names_are_kept_apart"

    def place(self, name: str, log: str) -> tuple[str, str]:
        return unicodedata.normalize("NFC", name), log


class CutsNames(Mutant):
    caught = "names_are_kept_apart"

    def place(self, name: str, log: str) -> tuple[str, str]:
        return name[:300], log


class CannotDoWithoutAName(Mutant):
    caught = "odd_names_are_names"

    def place(self, name: str, log: str) -> tuple[str, str]:
        return name.strip("/. \0") or "unnamed", log


class KnowsNoLogs(Mutant):
    caught = "logs_are_kept_apart"

    def place(self, name: str, log: str) -> tuple[str, str]:
        return name, ""


class LooksThenKeeps(Mutant):
    caught = "of_two_histories_at_once_one_is_kept"

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        kept = self.kept.setdefault(self.place(name, log), {})
        self.check(head(name, log, entries, line), kept)
        time.sleep(0.001)
        kept[entries] = line


class LosesWhatComesAtOnce(Mutant):
    caught = "of_many_at_once_none_is_lost"

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        place = self.place(name, log)
        kept = dict(self.kept.get(place, {}))
        self.check(head(name, log, entries, line), kept)
        time.sleep(0.001)
        self.kept[place] = {**kept, entries: line}


class Alone(Anchors):
    """One anchor for all."""

    def __init__(self, anchor: Anchor) -> None:
        super().__init__()
        self._anchor = anchor

    def make(self) -> Anchor:
        return self._anchor


class ToItself(Anchors):
    """Each anchor has a memory of its own."""

    def make(self) -> Anchor:
        return InMemoryAnchor()


MUTANTS = Mutant.__subclasses__()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_law_catches_the_broken_anchor(mutant: type[Mutant]) -> None:
    with pytest.raises((AssertionError, AnchorRefused)):
        check(CAUGHT_BY[mutant.caught], Alone(mutant()))


def test_a_law_catches_anchors_that_keep_to_themselves() -> None:
    with pytest.raises(AssertionError):
        check(CAUGHT_BY["what_was_put_is_there_for_everybody"], ToItself())


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_what_the_mutants_are_made_of_is_not_broken(law: object) -> None:
    check(CAUGHT_BY[getattr(law, "__name__", "")], Alone(Mutant()))


def test_every_law_of_an_anchor_catches_something() -> None:
    assert {mutant.caught for mutant in MUTANTS} == set(CAUGHT_BY)
