"""Every anchor keeps the laws of its port."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from shipworthy.adapters.anchors.file import FileAnchor
from shipworthy.adapters.anchors.http import HttpAnchor
from shipworthy.adapters.inmemory.anchor import InMemoryAnchor
from shipworthy.adapters.postgres.anchor import PostgresAnchor
from shipworthy.adapters.s3.anchor import ObjectAnchor
from shipworthy.adapters.shared.checkpoints import head_in
from shipworthy.app.audit_logs import FileAuditLog
from shipworthy.domain.audit import Draft
from shipworthy.ports.anchors import Anchor
from shipworthy.testing.contracts.anchors import LAWS, Anchors, Law, check, name
from tests.audit.witnesses import a_witness
from tests.servers.postgres import a_database
from tests.servers.s3 import Bucket, a_bucket


class InMemory(Anchors):
    """One anchor for all: there is no other process."""

    def __init__(self, anchor: Anchor | None = None) -> None:
        super().__init__()
        self._anchor = anchor or InMemoryAnchor()

    def make(self) -> Anchor:
        return self._anchor


class InFile(Anchors):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make(self) -> Anchor:
        return FileAnchor(self._path)


class OnPostgres(Anchors):
    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._dsn = dsn

    def make(self) -> Anchor:
        return PostgresAnchor(self._dsn)


class InObjects(Anchors):
    def __init__(self, bucket: Bucket) -> None:
        super().__init__()
        self._bucket = bucket

    def make(self) -> Anchor:
        return ObjectAnchor(self._bucket.name, prefix="audit/", client=self._bucket.client())


class AtWitness(Anchors):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def make(self) -> Anchor:
        return HttpAnchor(self._url, headers={"Authorization": "Bearer a-token"})


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a witness, which wants a token."""
    with a_witness(tmp_path_factory.mktemp("witness"), token="a-token") as server:
        yield f"http://{server.address}/checkpoints"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """A bucket of this module alone, on a real object store."""
    with a_bucket() as made:
        yield made


@pytest.fixture(scope="module")
def writer() -> Iterator[str]:
    """The dsn of a role that may add checkpoints, and no more, in a database whose owner has made the table."""
    role = f"writer_{uuid.uuid4().hex[:8]}"
    with a_database() as dsn:
        owner = PostgresAnchor(dsn, create=True)
        owner.prepare()
        owner.close()
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {role} LOGIN IN ROLE shipworthy_anchor".encode())
            yield dsn.replace("postgres@", f"{role}@")
            admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_an_anchor_in_memory(law: Law) -> None:
    check(law, InMemory())


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_a_file_anchor(law: Law, tmp_path: Path) -> None:
    check(law, InFile(tmp_path / "anchor"))


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_a_postgres_anchor(law: Law, writer: str) -> None:
    check(law, OnPostgres(writer))


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_an_object_anchor(law: Law, bucket: Bucket) -> None:
    check(law, InObjects(bucket))


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_an_http_anchor(law: Law, witness: str) -> None:
    check(law, AtWitness(witness))


def test_a_log_has_its_checkpoints_in_all_of_them(
    tmp_path: Path, writer: str, bucket: Bucket, witness: str
) -> None:
    """What a real log sends is what they keep, and its own newest is theirs when it is closed."""
    named = f"log-{uuid.uuid4().hex}"
    places = (InFile(tmp_path / "anchor"), OnPostgres(writer), InObjects(bucket), AtWitness(witness))
    anchors = [place.new() for place in places]

    async def work() -> None:
        log = FileAuditLog(
            tmp_path / "audit.jsonl", secret="a secret of sixteen", name=named, anchors=anchors
        )
        await log.open()
        for number in range(130):
            await log.append([Draft(action="tool.attempted", actor="tool:t", at=number)])
        await log.close()

    asyncio.run(work())
    own = (tmp_path / "audit.jsonl.checkpoints").read_bytes().splitlines()
    for place, anchor in zip(places, anchors, strict=True):
        assert list(anchor.newest(named)) == own[-1:], anchor.where
        assert set(anchor.all(named)) <= set(own), anchor.where
        place.close()
    head = head_in(own[-1])
    assert head is not None
    assert head.entries == 131
