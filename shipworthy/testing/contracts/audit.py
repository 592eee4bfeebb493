"""The laws of an audit log.

    class MyLogs(Logs):
        def make(self, *secrets: str) -> AuditLog:
            return MyAuditLog(self.url, secret=secrets)

        def lines(self) -> Iterable[bytes]: ...

    @pytest.mark.parametrize("law", LAWS, ids=name)
    def test_my_log(law: Law) -> None:
        check(law, MyLogs(...))

`LAWS` hold for every log, `LASTING_LAWS` for one that outlives its process and that several of them share;
`JOINED_LAWS` (in `audit_joined`) for one whose entries ride in the commits of a store.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from shipworthy.domain.audit import Draft, Entry
from shipworthy.domain.scope import Scope
from shipworthy.errors import AuditClosed, AuditError, AuditKeyWrong, ShipworthyError
from shipworthy.ports.audit import AuditLog
from shipworthy.ports.store import Store
from shipworthy.rules.audit import form
from shipworthy.rules.audit.chain import BEGUN, ROTATED, Seal
from shipworthy.rules.audit.keys import Secret
from shipworthy.rules.audit.verdicts import Report
from shipworthy.rules.audit.verifying import Verifier

SECRET = "the secret of the audit log's laws"
OTHER = "another secret of the same length."
ALL = (SECRET, OTHER)
NAMES = (
    "",
    " ",
    "a\nb\r\n",
    '"\\/',
    "\x00\x01\x7f\x85",
    "\u2028\u2029\ufeff\ufffe",
    "名前 🦑 ä a\u0308 ‮x",
    '{"mac":"',
    '","mac":"' + "0" * 64 + '"}',
    "x" * 5000,
)
"""What users, tenants, runs and sessions may be called."""


class Logs:
    """Where a law gets its logs: each is another process's way to one log, which is not there at first."""

    def __init__(self) -> None:
        self._made: list[AuditLog] = []
        self._stores: list[Store] = []
        self.scope = Scope(f"tenant-{secrets.token_hex(4)}", "alice", "trip")

    def make(self, *secrets: str) -> AuditLog:
        """A log that is not open yet; its secrets, newest first."""
        raise NotImplementedError

    def make_store(self) -> Store:
        """A store at the logs' place, which is not open yet."""
        raise NotImplementedError

    def lines(self) -> Iterable[bytes]:
        """What is kept of the log, as the lines of a file that has its bodies, without newlines."""
        raise NotImplementedError

    def seals(self) -> Sequence[Seal]:
        """The log's seals."""
        raise NotImplementedError

    def checkpoints(self) -> Iterable[bytes]:
        """The log's own checkpoints."""
        return ()

    async def new(self, *secrets: str) -> AuditLog:
        """An open log."""
        log = self.make(*(secrets or (SECRET,)))
        self._made.append(log)
        await log.open()
        return log

    async def store(self) -> Store:
        """An open store."""
        store = self.make_store()
        self._stores.append(store)
        await store.open()
        return store

    async def close(self) -> None:
        """Close all that was made."""
        for log in self._made:
            await log.close()
        for store in self._stores:
            await store.close()

    # what is there

    def entries(self) -> list[Entry]:
        """The entries, without those that the log made of itself."""
        return [entry for entry in self.everything() if entry.action not in (BEGUN, ROTATED)]

    def everything(self) -> list[Entry]:
        """All entries."""
        found = [form.entry_of(line) for line in self.lines() if form.is_entry(line)]
        assert None not in found, "a line is no entry"
        return [entry for entry in found if entry is not None]

    def actions(self) -> list[str]:
        """What `entries` tell of."""
        return [entry.action for entry in self.entries()]

    def verified(self) -> Report:
        """What a verifier says, who must find nothing wrong."""
        verifier = Verifier(
            [Secret(text) for text in ALL], seals=self.seals(), checkpoints=self.checkpoints()
        )
        for line in self.lines():
            verifier.feed(line)
        report = verifier.report()
        assert report.verdict == "ok", f"{report.verdict}: {report.what}"
        assert not report.torn, "there is more than is sealed"
        return report


Law = Callable[[Logs], Awaitable[None]]


def check(law: Law, logs: Logs) -> None:
    """Hold *logs* to *law*. Raises AssertionError where it is broken."""

    async def run() -> None:
        try:
            await law(logs)
        finally:
            await logs.close()

    asyncio.run(run())


def name(law: Law) -> str:
    """A law's name, for a test's id."""
    return str(getattr(law, "__name__", law))


@contextlib.contextmanager
def refused(error: type[ShipworthyError]) -> Iterator[None]:
    """What is inside must raise *error*."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised.")


def said(action: str, body: bytes = b"", **known: str) -> Draft:
    """A draft."""
    return Draft(action=action, actor="runtime", at=1000, body=body, facts={"of": action}, **known)  # type: ignore[arg-type]


# every log


async def an_entry_is_there_when_append_returns(logs: Logs) -> None:
    """With its facts, whose it is, and a body that fits its digest; before the log is closed."""
    log = await logs.new()
    assert logs.entries() == []
    await log.append([said("one", b'{"said":"hello"}', tenant="acme", user="alice", session="s", run="r")])

    (entry,) = logs.entries()
    assert (entry.action, entry.actor, entry.at) == ("one", "runtime", 1000)
    assert (entry.tenant, entry.user, entry.session, entry.run) == ("acme", "alice", "s", "r")
    assert entry.facts == {"of": "one"}
    assert logs.verified().bodies.fit == 1


async def it_begins_with_what_it_is(logs: Logs) -> None:
    """Nothing but its first entry is there after it was opened, whoever opened it how often."""
    log = await logs.new()
    await log.open()
    (first,) = logs.everything()
    assert (first.action, first.facts["name"], first.facts["sealed"]) == (BEGUN, log.name, False)
    logs.verified()


async def entries_are_in_the_order_of_their_appends(logs: Logs) -> None:
    """And nothing is lost of an append of several, or of none."""
    log = await logs.new()
    await log.append([said("1")])
    await log.append([])
    await log.append([said("2"), said("3", b"{}")])
    await log.append([said("4")])
    assert logs.actions() == ["1", "2", "3", "4"]
    logs.verified()


async def nothing_comes_between_the_drafts_of_one_append(logs: Logs) -> None:
    """Eight tasks append at once: one chain, with every entry in it."""
    log = await logs.new()

    async def work(task: int) -> None:
        for turn in range(4):
            await log.append([said(f"{task} {turn} {part}", b"{}") for part in range(3)])

    await asyncio.gather(*[work(task) for task in range(8)])
    found = logs.actions()
    assert len(found) == 96
    for at in range(0, 96, 3):
        task, turn, _ = found[at].split()
        assert found[at : at + 3] == [f"{task} {turn} {part}" for part in range(3)]
    for mine in range(8):
        of_one = [each for each in found if each.startswith(f"{mine} ")]
        assert of_one == [f"{mine} {turn} {part}" for turn in range(4) for part in range(3)]
    assert logs.verified().entries == 97


async def an_append_is_not_abandoned_by_cancellation(logs: Logs) -> None:
    """Whoever is cancelled learns of it when the entry is there; and that it failed outranks that."""
    log = await logs.new()
    appending = asyncio.create_task(log.append([said("one")]))
    await asyncio.sleep(0)
    appending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await appending
    assert logs.actions() == ["one"]
    failing = asyncio.create_task(log.append([said("two", user="\ud800")]))
    await asyncio.sleep(0)
    failing.cancel()
    with refused(AuditError):
        await failing
    await log.append([said("three")])
    assert logs.actions() == ["one", "three"]
    logs.verified()


async def names_may_be_any_text(logs: Logs) -> None:
    """They come back as they were."""
    log = await logs.new()
    for text in NAMES:
        await log.append([said("named", b'"\xc3\xa4"', tenant=text, user=text, session=text, run=text)])
    found = [(entry.tenant, entry.user, entry.session, entry.run) for entry in logs.entries()]
    assert found == [(text,) * 4 for text in NAMES]
    assert logs.verified().bodies.fit == len(NAMES)


async def what_cannot_be_written_is_refused_alone(logs: Logs) -> None:
    """Text that is not Unicode, and facts that JSON has no word for: nothing of that append is there, and what others
    append at the same time is."""
    log = await logs.new()
    wrong = [
        said("wrong", user="\ud800"),
        said("wrong", b"\xff"),
        Draft(action="wrong", actor="runtime", at=1, facts={"it": object()}),
        Draft(action="wrong", actor="runtime", at=1, facts={"it": "\udfff"}),
    ]
    appends = [
        *[log.append([said("before"), each, said("behind")]) for each in wrong],
        log.append([said("right")]),
    ]
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [type(each) for each in results] == [AuditError] * len(wrong) + [type(None)], results
    assert logs.actions() == ["right"]
    logs.verified()


async def what_is_erased_is_gone_and_the_rest_verifies(logs: Logs) -> None:
    """Bodies go, entries stay; those of others stay whole. It can be done again, and the log goes on."""
    log = await logs.new()
    for _ in range(3):
        await log.append([said("a", b'"of Alice"', user="alice"), said("b", b'"of Bob"', user="bob")])
    assert await log.erase(lambda entry: entry.user == "alice") == 3

    assert not any(b"of Alice" in line for line in logs.lines())
    report = logs.verified()
    assert (report.entries, report.bodies.erased, report.bodies.fit) == (7, 3, 3)
    assert await log.erase(lambda entry: entry.user == "alice") == 0
    await log.append([said("c", b"{}")])
    assert logs.verified().entries == 8


async def a_closed_log_takes_nothing(logs: Logs) -> None:
    """Nor does one that was not opened yet. It says so."""
    log = logs.make(SECRET)
    with refused(AuditClosed):
        await log.append([said("one")])
    log = await logs.new()
    await log.append([said("two")])
    await log.close()
    await log.close()
    with refused(AuditClosed):
        await log.append([said("three")])
    assert logs.actions() == ["two"]
    logs.verified()


async def it_goes_on_when_it_is_opened_again(logs: Logs) -> None:
    """With the same log, where it stood."""
    log = await logs.new()
    await log.append([said("one")])
    await log.close()
    await log.open()
    await log.append([said("two")])
    assert logs.actions() == ["one", "two"]
    logs.verified()


# a log that lasts


async def another_process_goes_on_where_one_stopped(logs: Logs) -> None:
    """There is one beginning, and one chain."""
    for turn in range(3):
        log = await logs.new()
        await log.append([said(str(turn))])
        await log.close()
    assert logs.actions() == ["0", "1", "2"]
    assert logs.verified().entries == 4


async def two_writers_make_one_chain(logs: Logs) -> None:
    """They begin the log at the same time, and append in turn, and at the same time."""
    writers = await asyncio.gather(logs.new(), logs.new())
    for turn in range(4):
        await writers[turn % 2].append([said("in turn")])

    async def work(writer: int, task: int) -> None:
        for turn in range(6):
            await writers[writer].append([said(f"{writer} {task} {turn}"), said("beside", b"{}")])

    await asyncio.gather(*[work(writer, task) for writer in range(2) for task in range(3)])
    assert len(logs.entries()) == 76
    assert logs.verified().entries == 77


async def checkpoints_cover_the_log_when_it_is_closed(logs: Logs) -> None:
    """And each is of a tree of the log's entries."""
    log = await logs.new()
    for _ in range(20):
        await log.append([said("one"), said("two", b"{}"), said("three"), said("four")])
    await log.close()
    heads = [form.head_of(line) for line in logs.checkpoints()]
    assert heads
    assert heads[-1] is not None
    assert heads[-1][0].entries == 81
    assert logs.verified().checkpoints == len(heads)


async def a_wrong_secret_appends_nothing(logs: Logs) -> None:
    """It is refused when the log is opened, and the log goes on under the right one."""
    log = await logs.new()
    await log.append([said("one")])
    with refused(AuditKeyWrong):
        await logs.new(OTHER)
    await log.append([said("two")])
    assert logs.actions() == ["one", "two"]
    logs.verified()


async def a_new_secret_takes_over_once(logs: Logs) -> None:
    """When it is given, or with the first entry then; who has the old one alone is refused from then on."""
    old = await logs.new()
    await old.append([said("one")])
    new = await logs.new(OTHER, SECRET)
    await new.append([said("two"), said("three")])
    await (await logs.new(OTHER)).append([said("four")])
    with refused(AuditKeyWrong):
        await old.append([said("five")])
    with refused(AuditKeyWrong):
        await logs.new(SECRET)
    found = [entry.action for entry in logs.everything()]
    assert found == [BEGUN, "one", ROTATED, "two", "three", "four"]
    logs.verified()


LAWS: list[Law] = [
    an_entry_is_there_when_append_returns,
    it_begins_with_what_it_is,
    entries_are_in_the_order_of_their_appends,
    nothing_comes_between_the_drafts_of_one_append,
    an_append_is_not_abandoned_by_cancellation,
    names_may_be_any_text,
    what_cannot_be_written_is_refused_alone,
    what_is_erased_is_gone_and_the_rest_verifies,
    a_closed_log_takes_nothing,
    it_goes_on_when_it_is_opened_again,
]
LASTING_LAWS: list[Law] = [
    another_process_goes_on_where_one_stopped,
    two_writers_make_one_chain,
    checkpoints_cover_the_log_when_it_is_closed,
    a_wrong_secret_appends_nothing,
    a_new_secret_takes_over_once,
]
