"""The notary: checkpoints in time, to anchors that fail, hang or know better, and never in a writer's way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shipworthy import FileAnchor, FileAuditLog
from shipworthy.adapters.shared import courier, notary
from shipworthy.adapters.shared.courier import Courier
from shipworthy.adapters.shared.notary import Notary
from shipworthy.domain.audit import TreeHead
from shipworthy.errors import AnchorError, AnchorRefused, AuditDamaged
from shipworthy.rules.audit.form import head_of
from shipworthy.rules.audit.merkle import Tree
from tests.audit.file_logs import OTHER, SECRET, draft, verified


class Kept:
    """An anchor in memory, which does as it is told before it takes anything."""

    where = "the anchor in memory"

    def __init__(
        self, first: Callable[[], object] = lambda: None, asked: Callable[[], object] = lambda: None
    ) -> None:
        self.lines: list[bytes] = []
        self.first, self.asked = first, asked
        self.calls = 0

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        self.calls += 1
        self.first()
        if self.heads and self.heads[-1].entries > entries:
            raise AnchorRefused("It would go back.")
        self.lines.append(line)

    def newest(self, name: str) -> Sequence[bytes]:
        self.asked()
        return self.lines[-1:]

    def all(self, name: str) -> Iterator[bytes]:
        return iter(self.lines)

    def close(self) -> None: ...

    @property
    def heads(self) -> list[TreeHead]:
        return [found[0] for line in self.lines if (found := head_of(line))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_FIRST", 0.001)
    monkeypatch.setattr(notary, "_FIRST_WORD", 0.2)
    monkeypatch.setattr(notary, "_LAST_WORD", 0.2)


def own(path: Path) -> list[TreeHead]:
    file = path.with_name(path.name + ".checkpoints")
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [found[0] for line in lines if (found := head_of(line))]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - it is another thread's
            await asyncio.sleep(0.005)


async def opened(path: Path, **options: Any) -> FileAuditLog:
    given: dict[str, Any] = {"secret": SECRET} | options
    log = FileAuditLog(path, **given)
    await log.open()
    return log


def drafts(count: int) -> list[Any]:
    return [draft(str(n)) for n in range(count)]


def test_a_checkpoint_is_made_after_64_entries_after_a_second_and_at_the_end(path: Path) -> None:
    async def scene() -> None:
        log = await opened(path)
        await log.append(drafts(63))  # with the first one, 64
        await until(lambda: [head.entries for head in own(path)] == [64])
        await log.append(drafts(1))
        begun = time.monotonic()
        await until(lambda: [head.entries for head in own(path)] == [64, 65])
        assert 0.5 < time.monotonic() - begun < 2.5
        await log.append(drafts(1))
        await log.close()
        assert [head.entries for head in own(path)] == [64, 65, 66]

    asyncio.run(scene())
    assert (verified(path).verdict, verified(path).checkpoints) == ("ok", 3)


def test_two_who_share_a_log_make_no_checkpoint_of_what_has_one(path: Path) -> None:
    async def scene() -> None:
        first, second = await opened(path), await opened(path)
        await first.append(drafts(100))
        await until(lambda: [head.entries for head in own(path)] == [101])
        await second.append(drafts(100))
        await until(lambda: [head.entries for head in own(path)] == [101, 201])
        await first.close()
        await second.close()

    asyncio.run(scene())
    assert [head.entries for head in own(path)] == [101, 201]
    assert verified(path).verdict == "ok"


def test_it_goes_on_from_the_peaks_of_the_last_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    def add(self: Tree, line: bytes) -> None:
        hashed.append(line)
        plain(self, line)

    async def scene(secret: Any = SECRET) -> None:
        log = await opened(path, secret=secret)
        await log.append(drafts(100))
        await log.close()

    plain = Tree.add
    asyncio.run(scene())
    monkeypatch.setattr(Tree, "add", add)
    asyncio.run(scene())
    assert len(hashed) == 100
    asyncio.run(scene([OTHER, SECRET]))  # the last one was signed with a key that is not in use any more
    monkeypatch.undo()
    report = verified(path, OTHER, SECRET)
    assert (report.verdict, report.entries) == ("ok", 302)


def test_an_anchor_that_fails_is_tried_again_and_is_in_nobodys_way(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def failing() -> None:
        if anchor.calls < 4:
            raise AnchorError("It is down.")

    async def scene() -> None:
        log = await opened(path, anchors=[anchor])
        await log.append(drafts(63))
        await until(lambda: bool(anchor.lines))
        await until(lambda: log.unanchored == 0)
        assert log.anchor_failures == 3
        await log.close()

    anchor = Kept(failing)
    asyncio.run(scene())
    assert [head.entries for head in anchor.heads] == [64]
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once for each kind


def test_an_anchor_that_hangs_holds_up_neither_writers_nor_other_anchors_nor_the_end(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        log = await opened(path, anchors=[hanging, other])
        for _ in range(3):
            await log.append(drafts(64))
        await until(lambda: bool(other.heads) and other.heads[-1].entries == 193)
        assert log.unanchored == 193
        begun = time.monotonic()
        await log.close()
        assert time.monotonic() - begun < 2

    wait = threading.Event()
    hanging, other = Kept(lambda: wait.wait(10)), Kept()
    asyncio.run(scene())
    assert "was not reached" in caplog.text
    wait.set()


def test_a_checkpoint_that_comes_late_is_no_concern_and_one_that_is_refused_is_reported(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> tuple[TreeHead, Any]:
        log = await opened(path)
        await log.append(drafts(10))
        await log.close()
        await log.open()
        assert log._newest is not None
        assert log._newest.durable is not None
        standing = log._newest.durable[0]
        await log.append(drafts(10))
        await log.close()
        return own(path)[-1], standing

    newest, standing = asyncio.run(scene())
    early, late = path.with_name(path.name + ".checkpoints").read_bytes().split(b"\n")[:-1]
    anchor = Kept()
    anchor.lines.append(late)
    for told, failures in ((newest, 0), (own(path)[0], 1)):
        boy = Courier(anchor, lambda told=told: told)  # type: ignore[misc]
        boy.send(standing, early)
        boy.stop()
        boy.join(5.0)
        assert boy.failures == failures
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_anchor_that_is_ahead_or_knows_another_log_is_said_at_the_opening(
    path: Path, tmp_path: Path
) -> None:
    async def written(at: Path, count: int, anchor: Kept, *secrets: str) -> None:
        log = await opened(at, anchors=[anchor], name="the log", secret=[*secrets, SECRET])
        await log.append(drafts(count))
        await log.close()

    anchor, other = Kept(), Kept()
    asyncio.run(written(path, 10, anchor))
    asyncio.run(written(tmp_path / "other.jsonl", 10, other))
    before = path.read_bytes()
    with pytest.raises(AuditDamaged, match="swapped"):
        asyncio.run(written(path, 1, other, OTHER))
    assert path.read_bytes() == before  # nor is it entered that another key takes over
    with pytest.raises(AuditDamaged, match="missing"):
        asyncio.run(written(tmp_path / "none.jsonl", 1, other))
    assert not (tmp_path / "none.jsonl").exists()


def test_an_anchor_that_cannot_be_asked_stops_nobody(path: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        log = await opened(path, anchors=[FileAnchor(tmp_path / "not mounted" / "anchor")])
        await log.append(drafts(1))
        await log.close()
        assert log.anchor_failures >= 1
        assert log.unanchored == 2

    asyncio.run(scene())
    assert verified(path).verdict == "ok"


def test_a_checkpoint_that_is_none_or_of_another_history_is_said(path: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        log = await opened(path)
        await log.append(drafts(3))
        await log.close()

    asyncio.run(scene())
    file = path.with_name(path.name + ".checkpoints")
    good = file.read_bytes()
    for bad in (b"nonsense\n", good.replace(b'"entries":4', b'"entries":3'), good[:-20] + b'0"}\n'):
        file.write_bytes(bad)
        with pytest.raises(AuditDamaged, match="checkpoint"):
            asyncio.run(scene())
    file.write_bytes(good + good[:100])  # a crash tore the last one
    asyncio.run(scene())
    assert [head.entries for head in own(path)] == [4, 7]


def test_a_notary_that_cannot_write_says_it_once_and_makes_up_for_it(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(line: bytes) -> None:
        raise OSError(28, "No space left on device")

    async def scene() -> None:
        log = await opened(path)
        with monkeypatch.context() as patch:
            patch.setattr(log._heads, "keep", full)
            for _ in range(3):
                await log.append(drafts(64))
                await until(lambda: notaries[0].failures > 0)
            assert notaries[0].failures <= 3  # it does not spin
        await log.close()

    notaries: list[Notary] = []
    plain = Notary.__init__

    def made(self: Notary, *given: Any, **more: Any) -> None:
        notaries.append(self)
        plain(self, *given, **more)

    monkeypatch.setattr(Notary, "__init__", made)
    with caplog.at_level(logging.ERROR, "shipworthy.audit"):
        asyncio.run(scene())
    assert [record.getMessage() for record in caplog.records] == [
        "No checkpoint of an audit log could be made: OSError: [Errno 28] No space left on device"
    ]
    assert own(path)[-1].entries == 193


async def opened_while_others_write(path: Path) -> None:
    """Another writer goes on, and its checkpoints arrive, while an anchor is asked."""

    def goes_on() -> None:
        asyncio.run_coroutine_threadsafe(more(), loop).result(5)

    async def more() -> None:
        anchor.asked = lambda: None
        await other.append(drafts(64))
        await until(lambda: bool(anchor.heads) and anchor.heads[-1].entries == 65)

    loop, anchor = asyncio.get_running_loop(), Kept()
    other = await opened(path, anchors=[anchor])
    anchor.asked = goes_on
    log = await opened(path, anchors=[anchor])
    await log.append(drafts(1))
    for each in (log, other):
        await each.close()


def test_a_log_that_others_write_is_not_taken_for_one_that_was_put_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notary, "_FIRST_WORD", 5.0)
    asyncio.run(opened_while_others_write(path))
    assert verified(path).verdict == "ok"
    path.with_name("mutant").mkdir()
    monkeypatch.setattr(Notary, "_reaches", lambda self, count: count <= self._log.standing()[0].count)
    with pytest.raises(AuditDamaged, match="rolled_back"):  # as of a moment before the anchor was asked
        asyncio.run(opened_while_others_write(path.with_name("mutant") / "audit.jsonl"))


async def goes_on_for_a_while(log: FileAuditLog) -> None:
    for _ in range(20):
        await log.append(drafts(1))
        await asyncio.sleep(0.01)


async def told_late(path: Path, known: Sequence[bytes]) -> None:
    """Two anchors answer long after the log was begun, and one of them knows another log of its name."""
    wait, begun = threading.Event(), time.monotonic()
    slow = [Kept(asked=lambda: wait.wait(10)) for _ in range(2)]
    slow[1].lines += known
    log = await opened(path, anchors=slow, name="the log")
    await log.append(drafts(63))
    assert time.monotonic() - begun < 1
    wait.set()
    try:
        await until(lambda: len(slow[0].lines) == 1)
        with pytest.raises(AuditDamaged, match="swapped"):
            await goes_on_for_a_while(log)
    finally:
        await log.close()
    assert slow[1].lines == known


def test_an_anchor_that_answers_late_holds_up_nobody_and_stops_a_log_that_is_not_its(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def other(anchor: Kept) -> None:
        log = await opened(path.with_name("other.jsonl"), anchors=[anchor], name="the log")
        await log.close()

    known = Kept()
    asyncio.run(other(known))
    asyncio.run(told_late(path, known.lines))
    assert "Nothing more is entered" in caplog.text
    monkeypatch.setattr(Notary, "_late", lambda *of: True)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        asyncio.run(told_late(path.with_name("mutant.jsonl"), known.lines))


def test_what_another_writer_brings_while_an_anchor_is_looked_at_is_no_alarm(path: Path) -> None:
    async def scene() -> Any:
        log = await opened(path)
        await log.append(drafts(10))
        await log.close()
        await log.open()
        standing = log.standing()[0]
        await log.append(drafts(10))
        await log.close()
        return standing

    standing = asyncio.run(scene())
    early, late = path.with_name(path.name + ".checkpoints").read_bytes().split(b"\n")[:-1]
    newest = own(path)
    anchor = Kept(asked=lambda: newest.sort(key=lambda head: -head.entries))
    anchor.lines.append(late)
    boy = Courier(anchor, lambda: newest[0])
    boy.send(standing, early)
    boy.stop()
    boy.join(5.0)
    assert boy.failures == 0
