"""A text that names an anchor, and texts that name none."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import shipworthy
from shipworthy.adapters.inmemory.anchor import InMemoryAnchor
from shipworthy.app.anchors import anchor_for
from shipworthy.errors import ConfigurationError, MissingExtra


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("file:/mnt/anchors/shop", "The anchor /mnt/anchors/shop"),
        ("postgres://me:hush@db.example/anchors", "The anchor in the database 'anchors' on db.example"),
        ("s3://anchors", "The anchor s3://anchors/"),
        ("s3://anchors/audit", "The anchor s3://anchors/audit/"),
        (
            "s3://anchors/audit/?region=eu-central-1&endpoint_url=http://h:9000",
            "The anchor s3://anchors/audit/ (http://h:9000)",
        ),
        ("https://witness.example", "The anchor https://witness.example/"),
    ],
)
def test_a_text_names_an_anchor(text: str, where: str) -> None:
    assert anchor_for(text).where == where


@pytest.mark.parametrize(
    "given",
    [
        *("", "file:", "/mnt/anchor", "ftp://hush@host", "s3://", "s3:///prefix", "s3://me:hush@bucket"),
        *(
            "s3://bucket?password=hush",
            "s3://bucket?region",
            "s3://[bucket",
            "https://me:hush@witness",
            "http://witness",
        ),
        *("postgres://me:hush@a@b/c", 7, None, object()),
    ],
)
def test_what_names_no_anchor_is_refused_without_its_password(given: Any) -> None:
    with pytest.raises(ConfigurationError) as raised:
        anchor_for(given)
    assert raised.value.fix
    assert "hush" not in str(raised.value)


def test_an_anchor_whose_extra_is_not_installed_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shipworthy.adapters.postgres.anchor", None)
    monkeypatch.delitem(shipworthy.__dict__, "PostgresAnchor", raising=False)
    for asks in (lambda: anchor_for("postgres://host/db"), lambda: shipworthy.PostgresAnchor):
        with pytest.raises(MissingExtra) as raised:
            asks()
        assert "shipworthy[postgres]" in raised.value.fix


def test_an_anchor_is_itself() -> None:
    anchor = InMemoryAnchor()
    assert anchor_for(anchor) is anchor


def test_a_witness_gets_the_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPWORTHY_WITNESS_TOKEN", "a-token")
    anchor: Any = anchor_for("https://witness.example")
    assert anchor._headers == {"Authorization": "Bearer a-token"}
