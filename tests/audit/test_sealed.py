"""A sealed key file: what is over cannot be made any more, and whatever is lost in between, key file and log fit."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from shipworthy import FileAuditLog, SealedKey
from shipworthy.adapters.shared import sealed
from shipworthy.adapters.shared.notary import Notary
from shipworthy.adapters.shared.sealed import seal_key
from shipworthy.errors import AuditDamaged, AuditKeyWrong, AuditUnavailable, ConfigurationError
from shipworthy.rules.audit.chain import seals_of
from shipworthy.rules.audit.keys import Secret
from tests.audit.file_logs import OTHER, SECRET, draft, entries, said, verified

LOG = "0123456789abcdef" * 2
EVERY = 64


class Power(BaseException):
    """It went off."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    seal_key(tmp_path / "key", SECRET, LOG, name="agent")
    return tmp_path / "key"


async def entered(path: Path, count: int, secret: Any, **options: Any) -> None:
    log = FileAuditLog(path, secret=secret, **options)
    await log.open()
    try:
        await log.append([draft(str(n)) for n in range(count)])
    finally:
        await log.close()


def epoch(key: Path) -> int:
    return int(json.loads(key.read_bytes())["epoch"])


def test_a_log_with_a_sealed_key_moves_on_and_verifies_with_the_secret(path: Path, key: Path) -> None:
    for number in range(4):
        asyncio.run(entered(path, 50, key))
        assert epoch(key) == (50 * number + 50) // EVERY
    report = verified(path)
    assert (report.verdict, report.forward_secure, report.name) == ("ok", True, "agent")
    assert entries(path)[0].log == LOG


def test_whoever_takes_the_key_file_has_nothing_of_what_is_over(path: Path, key: Path) -> None:
    asyncio.run(entered(path, 200, key))
    stolen, whole = SealedKey(key), Secret(SECRET)
    assert stolen.epoch(LOG, 3) == whole.epoch(LOG, 3)
    assert stolen.epoch(LOG, 7) == whole.epoch(LOG, 7)
    assert stolen.seed(LOG) == whole.seed(LOG)
    for number in range(3):
        with pytest.raises(AuditKeyWrong, match="is gone"):
            stolen.epoch(LOG, number)
        assert whole.epoch(LOG, number).hex() not in key.read_text()
    with pytest.raises(AuditKeyWrong, match="is of the log"):
        stolen.epoch("f" * 32, 3)
    assert (key.stat().st_mode & 0o777, repr(stolen)) == (0o600, f"<SealedKey {whole.id} {str(key)!r}>")


def test_a_key_of_a_later_epoch_that_is_made_meanwhile_does_not_keep_the_file_back(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(at: str, kept: Any) -> None:
        keys.epoch(LOG, 9)
        plain(at, kept)

    keys, plain = SealedKey(key), sealed._write
    monkeypatch.setattr(sealed, "_write", write)
    for number in (3, 9):
        keys.over(LOG, number)
        assert (epoch(key), keys.epoch(LOG, number)) == (number, Secret(SECRET).epoch(LOG, number))


def test_processes_share_a_key_file_and_it_never_goes_back(path: Path, key: Path) -> None:
    first, second = SealedKey(key), SealedKey(key)
    first.over(LOG, 5)
    second.over(LOG, 3)
    assert epoch(key) == 5
    assert second.epoch(LOG, 4) == Secret(SECRET).epoch(LOG, 4)  # it still has it, where it was

    async def scene() -> None:
        logs = [FileAuditLog(path, secret=key) for _ in range(2)]
        for log in logs:
            await log.open()
        for n in range(6):
            await logs[n % 2].append([draft(f"{n}.{k}") for k in range(40)])
        for log in logs:
            await log.close()

    os.unlink(key)
    seal_key(key, SECRET, LOG)
    asyncio.run(scene())
    assert (verified(path).verdict, len(said(path)), epoch(key)) == ("ok", 240, 3)


def crashed(path: Path, key: Path, step: str, when: str, patch: pytest.MonkeyPatch) -> str:
    """What is wrong after a loss of power at this step of the key file's; "" for nothing."""

    def at_step(*given: Any) -> Any:
        if when == "after":
            plain(*given)
        raise Power

    class Os:
        def __getattr__(self, name: str) -> Any:
            return at_step if name == step else getattr(os, name)

    with patch.context() as unmoved:
        unmoved.setattr(Notary, "_evolve", lambda *of: None)
        asyncio.run(entered(path, 120, key))
    plain = getattr(os, step, None) or getattr(sealed, step)
    keys = SealedKey(key)
    with patch.context() as broken:
        broken.setattr(sealed, *(("os", Os()) if hasattr(os, step) else (step, at_step)))
        with pytest.raises(Power):
            keys.over(LOG, 1)
    try:
        asyncio.run(entered(path, 60, key))
    except (AuditDamaged, AuditKeyWrong, ConfigurationError) as error:
        return str(error)
    verdict = verified(path).verdict
    return "" if (verdict, len(said(path)), epoch(key)) == ("ok", 180, 2) else f"it is {verdict}"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["open", "write_at", "fsync", "rename", "sync_folder"])
def test_the_key_file_and_the_log_fit_wherever_the_power_went(
    path: Path, key: Path, step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crashed(path, key, step, when, monkeypatch) == ""


def seen(path: Path, key: Path, patch: pytest.MonkeyPatch, ahead: int = 0) -> list[tuple[int, int]]:
    """Each move of the key file, with the epoch that the seal's file counts then."""
    moves: list[tuple[int, int]] = []

    def write(at: str, kept: Any) -> None:
        seals = seals_of(path.with_name(path.name + ".seal").read_bytes())
        moves.append((kept.epoch, (seals[0].count - 1) // EVERY))
        plain(at, kept)

    plain, over = sealed._write, SealedKey.over
    patch.setattr(sealed, "_write", write)
    patch.setattr(SealedKey, "over", lambda self, log, number: over(self, log, number + ahead))
    for _ in range(3):
        asyncio.run(entered(path, 70, key))
    return moves


def test_the_key_moves_on_after_an_entry_of_the_new_epoch_is_sealed(
    path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = seen(path, key, monkeypatch)
    assert len(moves) >= 3
    assert all([epoch <= counted for epoch, counted in moves])


def test_a_key_that_moves_on_too_early_is_found_out(
    path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AuditDamaged, match="rolled_back"):
        seen(path, key, monkeypatch, ahead=1)


def test_a_log_that_is_behind_its_sealed_key_or_gone_is_said(path: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    asyncio.run(entered(path, 10, key))
    for file in tmp_path.glob("audit*"):
        shutil.copy(file, tmp_path / "old")
    asyncio.run(entered(path, 100, key))
    for file in (tmp_path / "old").iterdir():
        shutil.copy(file, tmp_path)
    with pytest.raises(AuditDamaged, match="rolled_back"):
        asyncio.run(entered(path, 1, key))
    for file in tmp_path.glob("audit*"):
        file.unlink()
    with pytest.raises(AuditDamaged, match="missing"):
        asyncio.run(entered(path, 1, key))


def test_a_sealed_key_takes_over_from_another(path: Path, key: Path, tmp_path: Path) -> None:
    asyncio.run(entered(path, 100, key))
    later = seal_key(tmp_path / "later", OTHER, LOG, epoch=1, name="agent")
    asyncio.run(entered(path, 100, [later, SealedKey(key)]))
    with pytest.raises(AuditKeyWrong):
        asyncio.run(entered(path, 1, key))
    asyncio.run(entered(path, 100, tmp_path / "later"))
    assert (verified(path, OTHER, SECRET).verdict, len(said(path))) == ("ok", 300)


def test_a_file_that_is_no_sealed_key_is_refused(tmp_path: Path, key: Path) -> None:
    good = key.read_bytes()
    for bad in (
        b"",
        b"{}",
        b"\xff",
        good[:40],
        good.replace(b'"epoch":0', b'"epoch":-1'),
        good.replace(LOG.encode(), b"x"),
    ):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ConfigurationError, match="shipworthy audit keys new"):
            SealedKey(tmp_path / "bad")
    with pytest.raises(ConfigurationError, match="there already"):
        seal_key(key, SECRET, LOG)
    with pytest.raises(ConfigurationError, match="32 hexadecimal digits"):
        seal_key(tmp_path / "new", SECRET, "a log")
    with pytest.raises(ConfigurationError, match="at least 16 characters"):
        seal_key(tmp_path / "new", "short", LOG)
    key.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        SealedKey(key)


def test_a_key_file_that_cannot_be_written_keeps_its_keys(
    path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(at: str, kept: Any) -> None:
        raise OSError(28, "No space left on device")

    keys = SealedKey(key)
    with monkeypatch.context() as patch:
        patch.setattr(sealed, "_write", full)
        with pytest.raises(AuditUnavailable, match="No space left"):
            keys.over(LOG, 2)
    assert keys.epoch(LOG, 0) == Secret(SECRET).epoch(LOG, 0)
    keys.over(LOG, 2)
    assert epoch(key) == 2


def test_a_key_by_a_relative_path_or_a_link_moves_on_wherever_the_process_goes(
    path: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(key)
    monkeypatch.chdir(tmp_path)
    for at in (Path("key"), Path("link")):
        keys = SealedKey(at)
        monkeypatch.chdir(tmp_path / "elsewhere")
        asyncio.run(entered(path, 100, keys))
        monkeypatch.chdir(tmp_path)
    assert epoch(key) == 3
    assert (tmp_path / "link").is_symlink()


def test_a_key_that_cannot_move_on_is_counted_and_said_once(
    path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(at: str, kept: Any) -> None:
        raise OSError(28, "No space left on device")

    async def scene() -> int:
        log = FileAuditLog(path, secret=key)
        await log.open()
        await log.append([draft(str(n)) for n in range(100)])
        notary = log._notary
        await log.close()
        assert notary is not None
        assert notary.failures == 0
        return log.key_failures

    monkeypatch.setattr(sealed, "_write", full)
    with caplog.at_level(logging.ERROR, "shipworthy.audit"):
        assert asyncio.run(scene()) >= 1
    assert ["cannot move on" in record.getMessage() for record in caplog.records] == [True]


# a key from which another one took over


def left(folder: Path, old: Secret) -> list[str]:
    """Files from which keys of the old schedule could be had."""
    wanted = [old.seed(LOG).hex(), *[old.epoch(LOG, number).hex() for number in range(6)]]
    found = [file.name for file in folder.iterdir() if any(text in file.read_text() for text in wanted)]
    return sorted(found)


def taken_over(path: Path, key: Path) -> list[Path]:
    later = key.with_name("later")
    seal_key(later, OTHER, LOG, epoch=1, name="agent")
    asyncio.run(entered(path, 100, key))
    asyncio.run(entered(path, 0, [later, key]))  # the last entry is the old key's: it is needed yet
    assert left(path.parent, Secret(SECRET)) == ["key"]
    return [later, key]


def test_nothing_on_the_disk_opens_an_epoch_once_another_key_took_over(path: Path, key: Path) -> None:
    keys = taken_over(path, key)
    with key.open() as held:  # whatever still points to what was there
        asyncio.run(entered(path, 100, keys))
        assert left(path.parent, Secret(SECRET)) == []
        assert held.read() == ""
    asyncio.run(entered(path, 1, keys))
    asyncio.run(entered(path, 1, keys[0]))
    assert (verified(path, OTHER, SECRET).verdict, len(said(path))) == ("ok", 202)
    assert not SealedKey(key.with_name("later")).retired
    with pytest.raises(AuditKeyWrong, match="another key") as error:
        asyncio.run(entered(path, 1, key))
    assert "took over" in error.value.fix
    with pytest.raises(AuditKeyWrong, match="was retired"):
        SealedKey(key).epoch(LOG, 9)
    with pytest.raises(AuditKeyWrong, match="was retired"):
        SealedKey(key).seed(LOG)


def test_an_old_key_that_is_left_where_it_is_is_found_out(
    path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notary, "_retire", lambda *of: None)
    asyncio.run(entered(path, 100, taken_over(path, key)))
    assert left(path.parent, Secret(SECRET)) == ["key"]


def test_a_process_that_has_the_old_key_in_memory_is_told(path: Path, key: Path) -> None:
    async def scene() -> None:
        log = FileAuditLog(path, secret=key)
        await log.open()
        later = seal_key(key.with_name("later"), OTHER, LOG, name="agent")
        await entered(path, 3, [later, SealedKey(key)])
        with pytest.raises(AuditKeyWrong, match="another key"):
            await log.append([draft("more")])
        await log.close()

    asyncio.run(scene())
    assert verified(path, OTHER, SECRET).verdict == "ok"


@pytest.mark.parametrize("step", ["open", "write_at", "fsync", "rename", "sync_folder", "ftruncate"])
def test_a_key_that_is_being_destroyed_when_the_power_goes_can_be_destroyed_again(
    path: Path, key: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(*given: Any) -> None:
        raise Power

    class Os:
        def __getattr__(self, name: str) -> Any:
            return off if name == step else getattr(os, name)

    keys = taken_over(path, key)
    with monkeypatch.context() as patch:
        patch.setattr(Notary, "_retire", lambda *of: None)
        asyncio.run(entered(path, 1, keys))
        patch.setattr(sealed, *(("os", Os()) if hasattr(os, step) else (step, off)))
        with pytest.raises(Power):
            SealedKey(key).retire()
    asyncio.run(entered(path, 1, keys))
    assert SealedKey(key).retired
    assert left(path.parent, Secret(SECRET)) == []
    assert verified(path, OTHER, SECRET).verdict == "ok"
