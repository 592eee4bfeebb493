"""What is special about an anchor in an object store, on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from shipworthy.adapters.s3 import anchor as objects
from shipworthy.adapters.s3.anchor import ObjectAnchor
from shipworthy.errors import AnchorError, AnchorRefused, ConfigurationError
from shipworthy.testing.contracts.anchors import LAWS, Anchors, Law, Log, check, name
from tests.servers.s3 import KEY, REGION, SECRET, Bucket, a_bucket, client


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with a_bucket() as made:
        yield made


class InPages(Anchors):
    def __init__(self, bucket: Bucket) -> None:
        super().__init__()
        self._bucket = bucket

    def make(self) -> ObjectAnchor:
        return ObjectAnchor(self._bucket.name, prefix="pages/", client=self._bucket.client())


PAGED = {"many_are_kept_in_their_order", "logs_are_kept_apart"}


@pytest.mark.parametrize("law", [law for law in LAWS if name(law) in PAGED], ids=name)
def test_more_checkpoints_than_a_page_has(law: Law, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_PAGE", 2)
    check(law, InPages(bucket))


def test_an_object_is_a_line_under_a_key_that_is_sorted_by_entries(bucket: Bucket) -> None:
    log = Log("a/b", id="1" * 32)
    line = log.put(ObjectAnchor(bucket.name, prefix="keys/", client=bucket.client()), 64)

    key = f"keys/n-a%2Fb/{'1' * 32}/{64:020}"
    assert bucket.client().get_object(Bucket=bucket.name, Key=key)["Body"].read() == line


def unaware(bucket: Bucket) -> Any:
    """A client of a store that does not know If-None-Match: the header never arrives."""
    made = boto3.client(
        "s3", region_name=REGION, endpoint_url=bucket.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    made.meta.events.register("before-call.s3.PutObject", _forget)
    return made


def _forget(params: Any, **_: Any) -> None:
    params["headers"].pop("If-None-Match", None)


def test_a_store_that_writes_objects_again_is_refused(bucket: Bucket) -> None:
    anchor, log = ObjectAnchor(bucket.name, prefix="unaware/", client=unaware(bucket)), Log("app")
    for _ in range(2):
        with pytest.raises(AnchorError, match="does not honour If-None-Match") as raised:
            log.put(anchor, 64)
        assert "Use a store that does" in raised.value.fix
    assert list(anchor.all("app")) == []


def test_without_that_proof_a_store_would_overwrite(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the test above."""
    monkeypatch.setattr(ObjectAnchor, "_prove", lambda self: None)
    one, log = ObjectAnchor(bucket.name, prefix="mutant/", client=unaware(bucket)), Log("app")
    log.put(one, 64)
    log.other(history="x").put(one, 64)
    assert list(one.all("app")) == [log.other(history="x").at(64)]


def test_what_somebody_else_put_among_them_hides_nothing(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much it is, and though it can never be removed; an object that is none is no checkpoint either."""
    monkeypatch.setattr(objects, "_PAGE", 2)
    anchor, log = (
        ObjectAnchor(bucket.name, prefix="foreign/", client=bucket.client()),
        Log("app", id="2" * 32),
    )
    first = log.put(anchor, 64)
    folder = f"foreign/n-app/{log.id}/"
    for number in range(5):
        for key in (f"{10:020}!{number}", f"{64:020}{number}", f"{70:020}/{number}", f"junk{number}"):
            bucket.client().put_object(Bucket=bucket.name, Key=folder + key, Body=b"")
    second = log.put(anchor, 128)

    assert list(anchor.all("app")) == [first, second]
    assert anchor.newest("app") == [second]
    for entries in (9, 65):
        with pytest.raises(AnchorRefused, match="128 entries" if entries > 64 else "64 entries"):
            log.put(anchor, entries)
    bucket.client().put_object(Bucket=bucket.name, Key=f"{folder}{129:020}", Body=b"junk")
    with pytest.raises(AnchorRefused):
        log.put(anchor, 129)


def test_what_the_store_does_not_allow_is_told_without_secrets(bucket: Bucket) -> None:
    log = Log("app")
    for anchor, what, fix in (
        (ObjectAnchor("no-such-bucket", client=bucket.client()), "no-such-bucket", "Make the bucket"),
        (
            ObjectAnchor(bucket.name, client=client(bucket.url, KEY, "another-secret")),
            "Signature",
            "credentials",
        ),
        (ObjectAnchor(bucket.name, client=client(bucket.url, "nobody")), "nobody|exist", "credentials"),
        (ObjectAnchor("a b", client=bucket.client()), "Invalid bucket", "Correct bucket="),
        (ObjectAnchor("gone", client=client("http://127.0.0.1:9")), "127.0.0.1:9", "way to it"),
    ):
        for asks in (
            lambda a=anchor: log.put(a, 64),
            lambda a=anchor: a.newest("app"),
            lambda a=anchor: list(a.all("app")),
        ):
            with pytest.raises(AnchorError, match=what) as raised:
                asks()
            assert fix in raised.value.fix
            assert raised.value.fix
            assert SECRET not in str(raised.value)


def test_an_address_is_shown_without_a_password() -> None:
    anchor = ObjectAnchor("bucket", prefix="audit/", endpoint_url="https://me:hush@store.example:9000")
    assert anchor.where == "The anchor s3://bucket/audit/ (store.example:9000)"


@pytest.mark.parametrize("given", ["", None, 7])
def test_what_is_no_bucket_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError):
        ObjectAnchor(given)
