"""The laws of a memory store catch stores that are broken: one law is named for each, and must fail. Each law is there
for one of them at least."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
import pytest

from shipworthy.adapters.inmemory import memory as inmemory
from shipworthy.adapters.inmemory.memory import InMemoryMemoryStore
from shipworthy.domain.memory import Changes, Erased, Kind, Mark, Record, Stamp
from shipworthy.domain.scope import Operator, Scope
from shipworthy.errors import MemoryConflict
from shipworthy.ports.memory import MemoryStore
from shipworthy.testing.contracts.memory import DURABLE_LAWS, LAWS, SHARED_LAWS, MemoryStores, check, name
from tests.contracts.test_memory import InMemory

CAUGHT_BY = {name(law): law for law in LAWS + SHARED_LAWS + DURABLE_LAWS}


class Mutant(InMemoryMemoryStore):
    """`caught`: the law that it breaks."""

    caught: ClassVar[str]

    async def whole(self, scope: Scope, records: Sequence[Record], replace: bool, at: Mark | None) -> Mark:
        """What `put` does when it is not broken."""
        return await super().put(scope, records, replace=replace, at=at)


class LosesTheWeight(Mutant):
    caught = "what_was_put_is_read_as_it_was"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        return await super().put(scope, [msgspec.structs.replace(one, weight=0.3) for one in records], **how)


class ReplacesWhatIsThere(Mutant):
    caught = "putting_again_changes_nothing"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        return await super().put(scope, records, **{**how, "replace": True})


class KeepsTheNumberOfWhatItReplaces(Mutant):
    caught = "what_replaces_gets_a_new_number"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        part = self._find(scope)
        for one in records if how.get("replace") and part is not None else ():
            assert part is not None
            if (n := part.numbers.get(one.id)) is not None:
                part.records.held[n] = msgspec.structs.replace(one, n=n)
        return await super().put(scope, records, at=how.get("at"))


class KeepsTheFirstOfTwo(Mutant):
    caught = "of_an_id_twice_in_one_put_one_is_kept"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        first = {one.id: one for one in reversed(records)}
        return await super().put(scope, [one for one in records if first[one.id] is one], **how)


class MakesPartitionsOfNothing(Mutant):
    caught = "putting_nothing_gives_the_mark"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        if self._find(scope) is None:
            self._make(scope)
        return await super().put(scope, records, **how)


class RefusesTheMarkAfterARemoval(Mutant):
    caught = "who_has_read_all_may_write"

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        part = self._find(scope)
        if at and part and part.records.last != len(part.numbers):
            raise MemoryConflict("Somebody else wrote to this partition meanwhile.")
        return await self.whole(scope, records, replace, at)


class IgnoresTheMark(Mutant):
    caught = "who_has_not_read_all_may_not"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        return await super().put(scope, records, replace=how.get("replace", False))


class ComparesOnlyTheEpoch(Mutant):
    caught = "who_has_not_read_all_may_not"

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        present = await self.whole(scope, [], False, None)
        return await self.whole(scope, records, replace, present if at and at.epoch == present.epoch else at)


class ComparesOnlyTheNumber(ComparesOnlyTheEpoch):
    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        present = await self.whole(scope, [], False, None)
        return await self.whole(scope, records, replace, present if at and at.n == present.n else at)


class ComparesOnlyWhenItWrites(Mutant):
    caught = "who_writes_of_nothing_new_must_have_read_it_too"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        there = {one.id for one in await self.get(scope, [one.id for one in records])}
        if not how.get("replace") and all(one.id in there for one in records):
            return await super().put(scope, [])
        return await super().put(scope, records, **how)


class ChecksThenWrites(Mutant):
    caught = "of_many_who_read_the_same_one_writes"

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        await self.whole(scope, [], False, at)
        await asyncio.sleep(0)
        return await self.whole(scope, records, replace, None)


class ChecksThenCounts(ChecksThenWrites):
    caught = "no_change_is_lost_among_many"


class WritesOneByOne(Mutant):
    caught = "a_put_is_whole_or_not_at_all"

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        mark = await self.whole(scope, [], replace, at)
        for one in records:
            mark = await self.whole(scope, [one], replace, None)
            await asyncio.sleep(0)
        return mark


class StopsInTheMiddle(WritesOneByOne):
    caught = "a_put_that_is_cancelled_is_whole_or_nothing"


class WritesBeforeItFails(Mutant):
    caught = "a_put_that_fails_has_written_nothing"

    async def put(
        self, scope: Scope, records: Sequence[Record], *, replace: bool = False, at: Mark | None = None
    ) -> Mark:
        mark = await self.whole(scope, [], replace, at)
        for one in records:
            mark = await self.whole(scope, [one], replace, None)
        return mark


class ShowsNumbersOutOfOrder(Mutant):
    """As a sequence does, whose numbers are given before they are committed."""

    caught = "many_who_write_at_once_lose_nothing"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        mark = await super().put(scope, records, **how)
        part = self._find(scope)
        assert part is not None
        late = part.numbers[records[0].id] if len(part.numbers) % 3 == 0 else 0
        hidden = part.records.held.pop(late, None)
        await asyncio.sleep(0.001)
        if hidden is not None:
            part.records.held[late] = hidden
        return mark


class SeesItsPartitionTwice(Mutant):
    """Two who make a partition at once make two."""

    caught = "many_who_write_at_once_lose_nothing"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        new = self._find(scope) is None
        await asyncio.sleep(0)
        if new and (part := self._find(scope)) is not None:
            self._drop(part)
        return await super().put(scope, records, **how)


class TakesWhatIsTooLong(Mutant):
    caught = "what_is_too_long_is_refused"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        short = [msgspec.structs.replace(one, id=one.id[:100]) for one in records]
        return await super().put(scope, short, **how)


# reading


class BelievesWhoIsAhead(Mutant):
    caught = "a_reader_who_is_ahead_begins_anew"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        present = await self.whole(scope, [], False, None)
        ahead = since.epoch == present.epoch and since.n > present.n
        return await super().changes(scope, present if ahead else since, limit)


class CountsEntriesOnly(Mutant):
    caught = "an_answer_is_bounded"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        news = await super().changes(scope, since, limit)
        while news.more and len(news.entries) < limit:
            more = await super().changes(scope, news.mark, limit - len(news.entries))
            entries = [*news.entries, *more.entries]
            news = msgspec.structs.replace(more, entries=entries, reset=news.reset)
        return news


class NeverResets(Mutant):
    caught = "nothing_is_nowhere"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        return msgspec.structs.replace(await super().changes(scope, since, limit), reset=False)


class TellsTheLastAgain(Mutant):
    caught = "a_reader_is_told_what_is_new"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        return await super().changes(scope, Mark(since.epoch, max(0, since.n - 1)), limit)


class BeginsWhereTheReaderWas(Mutant):
    caught = "a_reader_of_another_epoch_begins_anew"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        news = await super().changes(scope, since, limit)
        return msgspec.structs.replace(news, entries=[entry for entry in news.entries if entry.n > since.n])


class KeepsTheEpoch(Mutant):
    caught = "removing_makes_readers_begin_anew"

    def _forget(self, part: Any, ids: Sequence[str]) -> int:
        epoch = part.epoch
        forgotten = super()._forget(part, ids)
        part.epoch = epoch
        return forgotten


class CountsWhatItWasTold(Mutant):
    caught = "removing_makes_readers_begin_anew"

    async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
        there = {one.id for one in await self.get(scope, ids)}
        await super().remove(scope, ids)
        return sum(id in there for id in ids)


class GivesNumbersAgain(Mutant):
    caught = "numbers_grow_after_a_removal"

    def _forget(self, part: Any, ids: Sequence[str]) -> int:
        forgotten = super()._forget(part, ids)
        part.records.last = max(part.records.held, default=0)
        part.records._numbers = list(part.records.held)
        return forgotten


class CountsEpochs(Mutant):
    caught = "no_mark_fits_what_was_made_again"

    def _make(self, scope: Scope) -> Any:
        part = super()._make(scope)
        part.epoch = self._places.last
        return part


class HasOneEpochForAScope(Mutant):
    caught = "no_mark_fits_what_was_made_again"

    def _make(self, scope: Scope) -> Any:
        part = super()._make(scope)
        part.epoch = hash(repr(scope)) % 2**62 + 1
        return part


class SaysMoreWhereAPageIsFull(Mutant):
    caught = "changes_come_in_pages"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        news = await super().changes(scope, since, limit)
        return msgspec.structs.replace(news, more=len(news.entries) == limit)


class MarksTheEndInTheMiddle(Mutant):
    caught = "changes_come_in_pages"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        news = await super().changes(scope, since, limit)
        return msgspec.structs.replace(news, mark=await self.whole(scope, [], False, None))


class ResetsOnlyFromNowhere(Mutant):
    caught = "a_reader_in_the_middle_begins_anew_too"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        present = await self.whole(scope, [], False, None)
        if since.n == 0 or not present.n:
            return await super().changes(scope, since, limit)
        news = await super().changes(scope, Mark(present.epoch, since.n), limit)
        return msgspec.structs.replace(news, mark=Mark(since.epoch, news.mark.n))


class PagesFromTheLastOn(Mutant):
    caught = "pages_are_full_and_in_order"

    async def page(
        self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
    ) -> list[Record]:
        return await super().page(scope, max(0, after - 1), limit, kind)


class FiltersWhatItHasCut(Mutant):
    caught = "pages_are_full_and_in_order"

    async def page(
        self, scope: Scope, after: int = 0, limit: int = 200, kind: Kind | None = None
    ) -> list[Record]:
        return [one for one in await super().page(scope, after, limit) if kind in (None, one.kind)]


class GivesThemInItsOwnOrder(Mutant):
    caught = "what_is_asked_for_comes_in_that_order"

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        return sorted(await super().get(scope, ids), key=lambda one: one.n)


class AnswersOnceOnly(Mutant):
    caught = "a_large_partition_is_read_whole"

    async def get(self, scope: Scope, ids: Sequence[str]) -> list[Record]:
        return (await super().get(scope, ids))[:250]


class RemovesTheFirstOnly(Mutant):
    caught = "a_large_partition_is_read_whole"

    async def remove(self, scope: Scope, ids: Sequence[str]) -> int:
        return await super().remove(scope, ids[:100])


class CountsForEverybody(Mutant):
    caught = "numbers_say_nothing_of_others"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        if (part := self._find(scope)) is not None:
            part.records.last = max(other.records.last for other in self._places.held.values())
        return await super().put(scope, records, **how)


class HidesWhatWasReplacedTwice(Mutant):
    caught = "an_index_is_what_paging_gives"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        news = await super().changes(scope, since, limit)
        kept = [one for one in news.entries if news.reset or news.more or one.n % 13]
        return msgspec.structs.replace(news, entries=kept)


class ReadsThenAsksWhereItIs(Mutant):
    caught = "an_index_is_right_whatever_came_at_once"

    async def changes(self, scope: Scope, since: Mark, limit: int = 1000) -> Changes:
        news = await super().changes(scope, since, limit)
        await asyncio.sleep(0)
        later = await super().changes(scope, since, limit)
        return (
            news if news.more or later.reset != news.reset else msgspec.structs.replace(news, mark=later.mark)
        )


# whose


class ForgetsTheSession(Mutant):
    caught = "an_id_of_another_partition_does_not_exist"

    def _session(self, scope: Scope) -> str | None:
        return None


class ForgetsTheUser(Mutant):
    caught = "an_id_of_another_partition_does_not_exist"

    def _owner(self, scope: Scope) -> inmemory.Owner:
        return scope.tenant, None


class ForgetsTheTenant(Mutant):
    caught = "an_id_of_another_partition_does_not_exist"

    def _owner(self, scope: Scope) -> inmemory.Owner:
        return "", scope.user


class HasOneEpochForAll(Mutant):
    caught = "a_mark_of_another_partition_fits_nowhere"

    def _make(self, scope: Scope) -> Any:
        part = super()._make(scope)
        part.epoch = 4711
        return part


def _named(caught: str, of_name: Callable[[str], str]) -> type[Mutant]:
    """A store to which two names are the same when *of_name* says so."""

    class Named(Mutant):
        def _owner(self, scope: Scope) -> inmemory.Owner:
            return of_name(scope.tenant), None if scope.user is None else of_name(scope.user)

        def _session(self, scope: Scope) -> str | None:
            return None if scope.session is None else of_name(scope.session)

    Named.caught = caught
    return Named


NAMED = {
    "folds case": _named("tenants_of_any_name_are_kept_apart", str.casefold),
    "strips": _named("users_of_any_name_are_kept_apart", str.strip),
    "normalises": _named("sessions_of_any_name_are_kept_apart", lambda n: unicodedata.normalize("NFC", n)),
    "cuts": _named("tenants_of_any_name_are_kept_apart", lambda n: n[:255]),
    "ends at NUL": _named("what_no_database_takes_is_kept_apart_or_refused", lambda n: n.partition("\0")[0]),
    "replaces half characters": _named(
        "what_no_database_takes_is_kept_apart_or_refused",
        lambda n: n.encode("utf-8", "replace").decode(),
    ),
    "encodes NUL carelessly": _named(
        "what_no_database_takes_is_kept_apart_or_refused", lambda n: n.replace("\0", "\\0")
    ),
}


class JoinsTheParts(Mutant):
    caught = "parts_of_a_scope_do_not_run_together"

    def _owner(self, scope: Scope) -> inmemory.Owner:
        return ":".join(part for part in (scope.tenant, scope.user) if part is not None), None


class TakesNobodyForSomebody(Mutant):
    caught = "parts_of_a_scope_do_not_run_together"

    def _session(self, scope: Scope) -> str | None:
        return scope.session or None


class FoldsIds(Mutant):
    caught = "ids_of_any_name_are_kept_apart"

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        folded = [msgspec.structs.replace(one, id=one.id.casefold()) for one in records]
        return await super().put(scope, folded, **how)


class SeesPrefixes(Mutant):
    caught = "partitions_that_have_records_are_within"

    async def within(self, scope: Scope) -> list[Scope]:
        every = [part.scope for part in self._places.held.values()]
        return [
            one
            for one in every
            if one.tenant == scope.tenant and (one.user or "").startswith(scope.user or "")
        ]


class RemembersTheEmpty(Mutant):
    caught = "partitions_that_have_records_are_within"

    async def within(self, scope: Scope) -> list[Scope]:
        self.seen: set[Scope] = {*getattr(self, "seen", ()), *await super().within(scope)}
        return [one for one in self.seen if one.tenant == scope.tenant and scope.user in (None, one.user)]


class ErasesPrefixes(Mutant):
    caught = "erasing_takes_exactly_what_is_within"

    async def erase(self, scope: Scope) -> Erased:
        gone = 0
        for part in list(self._places.held.values()):
            whole, one = (scope.tenant, scope.user or "", scope.session or ""), part.scope
            if all(map(str.startswith, (one.tenant, one.user or "", one.session or ""), whole)):
                gone += (await super().erase(one)).records
        return Erased(gone)


class LeavesTheSessions(Mutant):
    caught = "erasing_takes_exactly_what_is_within"

    def _covered(self, scope: Scope) -> list[Any]:
        return [part for part in super()._covered(scope) if part.scope.session == scope.session]


class ErasesOnceOnly(Mutant):
    caught = "much_is_erased_as_well"

    def _covered(self, scope: Scope) -> list[Any]:
        return super()._covered(scope)[:25]


class ShowsEverythingToAnybody(Mutant):
    caught = "an_operator_sees_every_partition"

    async def everything(
        self, operator: Operator, after: str = "", limit: int = 500
    ) -> list[tuple[str, Scope]]:
        return await super().everything(Operator("anybody"), after, limit)


class CountsPlacesInDecimals(Mutant):
    caught = "an_operator_sees_every_partition"

    async def everything(
        self, operator: Operator, after: str = "", limit: int = 500
    ) -> list[tuple[str, Scope]]:
        return [(f"{int(place)}", scope) for place, scope in await super().everything(operator, after, limit)]


# stores as such


class BelievesTheLastStamp(Mutant):
    caught = "the_first_stamp_stays"

    async def stamp(self, wanted: Stamp, *, replace: bool = False) -> Stamp:
        return await super().stamp(wanted, replace=True)


class SaysNothingOfItself(Mutant):
    caught = "a_store_says_where_it_is"

    @property
    def name(self) -> str:
        return ""


class LooksThenStamps(Mutant):
    caught = "of_many_stamps_at_once_one_is_first"

    async def stamp(self, wanted: Stamp, *, replace: bool = False) -> Stamp:
        known = self._stamp
        await asyncio.sleep(0)
        return known or await super().stamp(wanted, replace=True)


class BeginsAnewWhenItIsOpened(Mutant):
    caught = "several_are_opened_at_once"

    async def open(self) -> None:
        await asyncio.sleep(0)
        if (part := self._find(Scope("acme", "alice"))) is not None:
            self._drop(part)

    async def put(self, scope: Scope, records: Sequence[Record], **how: Any) -> Mark:
        mark = await super().put(scope, records, **how)
        await self.open()
        return mark


class StaysOpen(Mutant):
    caught = "a_store_that_is_closed_says_so"


class ToItself(MemoryStores):
    """Each store has records of its own."""

    def make(self) -> MemoryStore:
        return InMemoryMemoryStore()


ALONE = "one_store_sees_what_another_does", "what_was_put_is_there_when_it_is_opened_again"
MUTANTS: dict[str, type[Mutant]] = {mutant.__name__: mutant for mutant in Mutant.__subclasses__()}
MUTANTS |= {also.__name__: also for also in (ComparesOnlyTheNumber, ChecksThenCounts, StopsInTheMiddle)}
MUTANTS |= NAMED
del MUTANTS["Named"]


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_law_catches_the_broken_memory_store(mutant: type[Mutant]) -> None:
    with pytest.raises((AssertionError, MemoryConflict)):
        check(CAUGHT_BY[mutant.caught], InMemory(mutant()))


@pytest.mark.parametrize("law", ALONE)
def test_a_law_catches_stores_that_keep_to_themselves(law: str) -> None:
    with pytest.raises(AssertionError):
        check(CAUGHT_BY[law], ToItself())


def test_every_law_of_a_memory_store_catches_something() -> None:
    caught = {mutant.caught for mutant in MUTANTS.values()}
    assert caught.union(ALONE) == set(CAUGHT_BY)
