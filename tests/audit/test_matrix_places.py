"""The attack matrix on every persistent adapter: a real writer's log is attacked by files and by SQL, and read as
`shipworthy audit verify` reads it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shipworthy.app import cli
from tests.audit.attackable import Attackable, InFiles, InPostgres, InSqlite, taken, written
from tests.audit.attacks import ATTACKS, SECRET, Log, ours
from tests.audit.test_matrix import LONG, POSITIONS
from tests.servers.postgres import Postgres


class World(NamedTuple):
    """A place with two logs of one key, each with an anchor."""

    place: Attackable
    log: Log
    other: Log
    anchor: Path


@pytest.fixture(scope="module", params=["files", "sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    place: Any
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        dsn = server.fresh_database()
        place = InPostgres(dsn)
    else:
        place = InFiles(folder) if request.param == "files" else InSqlite(folder)
    anchor = folder / "anchor"
    log, other = written(place, "log", anchor, 1), written(place, "other", folder / "anchor-2", 2)
    yield World(place, log, other, anchor)
    if request.param == "postgres":
        place.close()
        server.drop_database(dsn)


def test_what_was_written_is_sound(world: World) -> None:
    assert ours(world.log).verdict == ours(world.other).verdict == "ok"
    world.place.put("copy", world.log)
    assert ours(taken(world.place, "copy", anchored=world.log.anchored)).verdict == "ok"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_a_place_is_found_and_called_by_its_name(name: str, world: World) -> None:
    wrong = []
    for at in range(POSITIONS):
        rng = random.Random(f"{name}/{at}")
        attacked = ATTACKS[name](world.log, world.other, rng)
        world.place.put("copy", attacked.log)
        said = ours(
            taken(world.place, "copy", anchored=attacked.log.anchored, expected=attacked.log.expected)
        )
        if said != (attacked.verdict, said.entry if attacked.entry is None else attacked.entry):
            wrong.append(f"{at}: {said}, and not {attacked.verdict} at {attacked.entry}")
    assert wrong == []


def test_the_command_says_the_same(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_SECRET", SECRET)
    for name in ATTACKS if LONG else ("edit", "delete_tail", "roll_back", "delete_file"):
        rng = random.Random(name)
        attacked = ATTACKS[name](world.log, world.other, rng)
        world.place.put("copy", attacked.log)
        options = ["--secret-env", "AUDIT_SECRET", "--json"]
        if attacked.log.anchored == world.log.anchored:
            name_there = json.loads((world.log.anchored or (b"",))[0])["name"]
            options += ["--anchor", str(world.anchor), "--name", name_there]
        if attacked.log.expected is not None:
            options += ["--expect-log", attacked.log.expected]

        code = cli.invoke(["audit", "verify", world.place.address("copy"), *options])

        said = json.loads(capsys.readouterr().out)["audit"]
        expected = attacked.verdict
        if name == "clock_back":
            expected = said["verdict"]  # its anchor is not the world's
        assert (code, said["verdict"]) == (1, expected), name


def test_an_export_is_verified_by_who_never_saw_our_code(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shipworthy_verify

    for name in ("sound", "edit", "splice"):
        attacked = (
            world.log if name == "sound" else ATTACKS[name](world.log, world.other, random.Random(3)).log
        )
        world.place.put("copy", attacked)
        copy = tmp_path / name
        assert cli.invoke(["audit", "export", world.place.address("copy"), "-o", str(copy)]) == 0
        report = shipworthy_verify.verify_file(copy, secrets=[SECRET], anchors=[world.anchor])
        assert report.verdict == {"sound": "ok", "edit": "edited", "splice": "spliced"}[name]
    capsys.readouterr()
