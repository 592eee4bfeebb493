"""The laws of an anchor.

    class MyAnchors(Anchors):
        def make(self) -> Anchor:
            return MyAnchor(self.url)

    @pytest.mark.parametrize("law", LAWS, ids=name)
    def test_my_anchor(law: Law) -> None:
        check(law, MyAnchors(...))

Each law writes under names of its own, so that all of them may share one place.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shipworthy.errors import AnchorError, AnchorRefused
from shipworthy.ports.anchors import Anchor
from shipworthy.rules.audit.form import head_of
from shipworthy.rules.audit.merkle import Tree
from shipworthy.rules.audit.signatures import checkpoint

THREADS = 8
NAMES = (
    *(
        "",
        " ",
        "a",
        "A",
        "a ",
        "a/b",
        "a//b",
        "/",
        ".",
        "..",
        "%",
        "%2E",
        "~",
        "a?b",
        "a&b=c",
        "a+b",
        "\x00",
        "\n",
    ),
    *('"', "\\", "ä", "a\u0308", "x" * 300, "x" * 301, "名" * 400),
)
"""What somebody may call a log."""


class Anchors:
    """Where a law gets its anchors: each is another process' way to the same place."""

    def __init__(self) -> None:
        self._made: list[Anchor] = []
        self._of_law = secrets.token_hex(4)

    def make(self) -> Anchor:
        """An anchor at the place."""
        raise NotImplementedError

    def new(self) -> Anchor:
        """An anchor that is closed in the end."""
        made = self.make()
        self._made.append(made)
        return made

    def log(self, name: str = "app", history: str = "") -> Log:
        """A log under a name that no other law has."""
        return Log(f"{name}{self._of_law}", history=history)

    def close(self) -> None:
        """Close every anchor that was made."""
        for anchor in self._made:
            anchor.close()


class Log:
    """A log that has nothing but checkpoints. Logs of one id with another *history* have other roots."""

    def __init__(self, name: str, *, id: str = "", history: str = "") -> None:
        self.name, self.id, self.history = name, id or secrets.token_hex(16), history
        self.seed = hashlib.sha256(self.id.encode()).digest()

    def other(self, name: str | None = None, *, history: str = "") -> Log:
        """The same log under another name, or with another history."""
        return Log(self.name if name is None else name, id=self.id, history=history)

    def at(self, entries: int, now: int = 1000) -> bytes:
        """The checkpoint of so many entries."""
        tree = Tree()
        for number in range(entries):
            tree.grow(hashlib.sha256(f"{self.history}{number}".encode()).digest())
        return checkpoint(self.seed, self.id, self.name, tree, now)

    def put(self, anchor: Anchor, entries: int, now: int = 1000) -> bytes:
        """Have the checkpoint of so many entries kept."""
        line = self.at(entries, now)
        anchor.put(self.name, self.id, entries, line)
        return line


Law = Callable[[Anchors], None]


def check(law: Law, anchors: Anchors) -> None:
    """Hold *anchors* to *law*. Raises AssertionError where it is broken."""
    try:
        law(anchors)
    finally:
        anchors.close()


def name(law: Law) -> str:
    """A law's name, for a test's id."""
    return law.__name__


@contextmanager
def refused(error: type[AnchorError] = AnchorRefused) -> Iterator[None]:
    """What is inside must raise *error*, with what to do."""
    try:
        yield
    except error as raised:
        if not raised.fix:
            raise AssertionError(f"{raised!r} says nothing of what to do") from raised
    else:
        raise AssertionError(f"{error.__name__} was not raised.")


def has(anchor: Anchor, log: Log, *lines: bytes) -> None:
    """Exactly these are kept of the name of *log*, in this order."""
    kept = list(anchor.all(log.name))
    assert kept == list(lines), f"{log.name!r}: {len(kept)} are kept, not these {len(lines)} in their order"
    assert list(anchor.newest(log.name)) == list(lines[-1:]), f"{log.name!r}: the newest is another one"


# what it has


def what_was_put_is_there_for_everybody(anchors: Anchors) -> None:
    """At once, and after it was closed; byte by byte."""
    anchor, log = anchors.new(), anchors.log()
    lines = [log.put(anchor, entries) for entries in (1, 64, 128)]
    has(anchor, log, *lines)
    has(anchors.new(), log, *lines)
    anchor.close()
    has(anchors.new(), log, *lines)
    lines.append(log.put(anchor, 129))
    has(anchor, log, *lines)
    has(anchors.new(), log, *lines)


def there_is_nothing_at_first(anchors: Anchors) -> None:
    """Neither of a name, nor of a log."""
    anchor, log = anchors.new(), anchors.log()
    has(anchor, log)
    log.put(anchor, 64)
    has(anchor, anchors.log("another"))


def the_same_again_does_nothing(anchors: Anchors) -> None:
    """Whoever sends it, whenever it was signed, and whether it is still the newest."""
    anchor, log = anchors.new(), anchors.log()
    first = log.put(anchor, 64)
    log.put(anchor, 64)
    log.put(anchors.new(), 64)
    log.put(anchor, 64, now=2000)
    has(anchors.new(), log, first)
    second = log.put(anchor, 128)
    for again in (anchor, anchors.new()):
        log.put(again, 64)
        log.put(again, 64, now=3000)
        log.put(again, 128)
    has(anchors.new(), log, first, second)


def many_are_kept_in_their_order(anchors: Anchors) -> None:
    """By number, not by their digits."""
    anchor, log = anchors.new(), anchors.log()
    lines = [log.put(anchor, entries) for entries in (2, 9, 10, 11, 99, 100, 1000, 1001)]
    has(anchors.new(), log, *lines)


def it_says_where_it_is(anchors: Anchors) -> None:
    """In words."""
    assert anchors.new().where.strip()


# what it refuses


def a_shorter_one_is_refused(anchors: Anchors) -> None:
    """By everybody, before and after it was closed; and longer ones go on."""
    anchor, log = anchors.new(), anchors.log()
    first, second = log.put(anchor, 64), log.put(anchor, 200)
    for asked in (anchor, anchors.new()):
        for entries in (1, 63, 65, 199):
            with refused():
                log.put(asked, entries)
    has(anchor, log, first, second)
    third = log.put(anchors.new(), 201)
    with refused():
        log.put(anchor, 199)
    has(anchor, log, first, second, third)


def another_history_is_refused(anchors: Anchors) -> None:
    """Of as many entries as the newest, or as an older one."""
    anchor, log = anchors.new(), anchors.log()
    other = log.other(history="other")
    first = log.put(anchor, 64)
    for asked in (anchor, anchors.new()):
        with refused():
            other.put(asked, 64)
    second = log.put(anchor, 128)
    for asked in (anchor, anchors.new()):
        for entries in (64, 128):
            with refused():
                other.put(asked, entries)
    has(anchor, log, first, second)


def what_is_no_checkpoint_is_refused(anchors: Anchors) -> None:
    """Or one of something else; nothing of it is kept, and nothing is disturbed by it."""
    anchor, log = anchors.new(), anchors.log()
    first, good = log.put(anchor, 64), log.at(128)
    junk = (
        *(
            b"",
            b"\n",
            b"{}",
            b"[]",
            b"null",
            b"\xff\xfe",
            b"\x00" * 500,
            good[:-1],
            good[1:],
            good + b" ",
            good + b"\n",
        ),
        *(
            good.replace(b'"v":1', b'"v":2'),
            good.replace(b'"entries":128', b'"entries":-128'),
            good + b"\n" + good,
        ),
        *(
            b'{"v":' + b"9" * 100_000 + b"}",
            b"[" * 50_000,
            b'"' + b"x" * 70_000 + b'"',
            good[:-10] + b'zzzzzzzz"}',
        ),
    )
    for line in junk:
        with refused(AnchorError):
            anchor.put(log.name, log.id, 128, line)
    for named, of, entries in (
        (log.name + "x", log.id, 128),
        (log.name, anchors.log().id, 128),
        (log.name, "../../x", 128),
        (log.name, log.id, 127),
        (log.name, log.id, -1),
    ):
        with refused(AnchorError):
            anchor.put(named, of, entries, good)
    has(anchor, log, first)
    has(anchors.new(), log, first, log.put(anchor, 128))


# whose


def names_are_kept_apart(anchors: Anchors) -> None:
    """Whatever text they are, the same log too."""
    anchor, mine = anchors.new(), anchors.log("")
    whose = [mine.other(f"{name}{mine.name}{name}") for name in NAMES]
    lines = [log.put(anchor, number) for number, log in enumerate(whose, 1)]
    for log, line in zip(whose, lines, strict=True):
        has(anchor, log, line)
    asked = anchors.new()
    has(asked, whose[-1], lines[-1])
    with refused():
        whose[-1].put(asked, 1)
    longer = whose[0].put(asked, 100)
    has(asked, whose[0], lines[0], longer)


def odd_names_are_names(anchors: Anchors) -> None:
    """As they are, with nothing before or after them."""
    anchor = anchors.new()
    for number, name in enumerate(("", " ", "/", ".", "..", "%2E", "~", "\x00")):
        log = Log(name, id=f"{number:032x}")
        line = log.put(anchor, 1)
        assert line in list(anchor.all(name)), f"what was kept under {name!r} is not there"
        assert line in anchor.newest(name)
        told = [head_of(kept) for kept in anchor.all(name)]
        assert {read[0].name for read in told if read} == {name}, f"{name!r} has what is of another one"


def logs_are_kept_apart(anchors: Anchors) -> None:
    """One name may have several: each has a newest, and goes on by itself."""
    anchor, one = anchors.new(), anchors.log()
    other = Log(one.name)
    lines = [one.put(anchor, 64), other.put(anchor, 10), one.put(anchor, 128), other.put(anchor, 20)]
    for asked in (anchor, anchors.new()):
        assert sorted(asked.newest(one.name)) == sorted(lines[2:])
        kept = list(asked.all(one.name))
        assert sorted(kept) == sorted(lines)
        assert [line for line in kept if line in lines[::2]] == lines[::2]
        assert [line for line in kept if line in lines[1::2]] == lines[1::2]
        with refused():
            other.put(asked, 19)
        with refused():
            one.put(asked, 127)


# at once


def of_many_at_once_none_is_lost(anchors: Anchors) -> None:
    """Those that were taken are kept, and in order; those that were refused are not."""
    log = anchors.log()
    counts = [range(start, 80, THREADS) for start in range(1, THREADS + 1)]
    taken: list[bytes] = []

    def put(number: int, anchor: Anchor) -> None:
        for entries in counts[number]:
            try:
                taken.append(log.put(anchor, entries))
            except AnchorRefused:
                continue

    at_once(anchors, put)
    kept = list(anchors.new().all(log.name))
    assert sorted(kept) == sorted(taken), f"{len(taken)} were taken, {len(kept)} are kept"
    assert kept == [log.at(entries) for entries in range(80) if log.at(entries) in kept], (
        "they are not in order"
    )
    assert list(anchors.new().newest(log.name)) == kept[-1:]
    assert log.at(max(max(count) for count in counts)) == kept[-1]


def of_two_histories_at_once_one_is_kept(anchors: Anchors) -> None:
    """Whoever is first; everybody else is told."""
    for entries in (1, 2):
        logs = [anchors.log(str(entries))]
        logs += [logs[0].other(history=str(number)) for number in range(1, THREADS)]
        taken: list[bytes] = []

        def put(
            number: int, anchor: Anchor, logs: list[Log] = logs, n: int = entries, taken: list[bytes] = taken
        ) -> None:
            try:
                taken.append(logs[number].put(anchor, n))
            except AnchorRefused:
                return

        at_once(anchors, put)
        assert len(taken) == 1, f"{len(taken)} histories were taken"
        has(anchors.new(), logs[0], taken[0])


def at_once(anchors: Anchors, work: Callable[[int, Anchor], None]) -> None:
    """Have *work* done by all threads at once: half of them share an anchor. Raises what one of them raised."""
    shared = anchors.new()
    failed: list[BaseException] = []
    ready = threading.Barrier(THREADS)

    def run(number: int, anchor: Anchor) -> None:
        try:
            ready.wait(30)
            work(number, anchor)
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=run, args=(number, shared if number % 2 else anchors.new()))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise AssertionError(f"A thread failed: {failed[0]!r}") from failed[0]


LAWS: tuple[Law, ...] = (
    what_was_put_is_there_for_everybody,
    there_is_nothing_at_first,
    the_same_again_does_nothing,
    many_are_kept_in_their_order,
    it_says_where_it_is,
    a_shorter_one_is_refused,
    another_history_is_refused,
    what_is_no_checkpoint_is_refused,
    names_are_kept_apart,
    odd_names_are_names,
    logs_are_kept_apart,
    of_many_at_once_none_is_lost,
    of_two_histories_at_once_one_is_kept,
)
