"""Anchors by the text that names one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from shipworthy.errors import ConfigurationError, MissingExtra
from shipworthy.ports.anchors import Anchor

if TYPE_CHECKING:
    from shipworthy.adapters.postgres.anchor import PostgresAnchor

TOKEN = "SHIPWORTHY_WITNESS_TOKEN"
_FIX = (
    'Pass "file:/mnt/anchor/app", "postgres://writer@host/database", "s3://bucket/prefix", "https://witness", or an '
    "anchor."
)


def anchor_for(given: Anchor | str) -> Anchor:
    """An anchor, or the one that a text names. Raises ConfigurationError, MissingExtra; neither quotes a password.

    `s3://bucket/prefix?region=...&endpoint_url=...`: the prefix may be left out, and so may the rest. A witness gets
    the token that SHIPWORTHY_WITNESS_TOKEN says, if it is set.
    """
    if not isinstance(given, str):
        if not all(hasattr(given, method) for method in ("put", "newest", "all", "close", "where")):
            raise ConfigurationError(f"This {type(given).__name__} is not an anchor.", fix=_FIX)
        return given
    kind, _, rest = given.partition(":")
    match kind:
        case "file" if rest:
            from shipworthy.adapters.anchors.file import FileAnchor

            return FileAnchor(rest)
        case "postgres" | "postgresql":
            return _postgres()(given)
        case "s3":
            return _objects(given)
        case "http" | "https":
            from shipworthy.adapters.anchors.http import HttpAnchor

            token = os.environ.get(TOKEN, "")
            return HttpAnchor(given, headers={"Authorization": f"Bearer {token}"} if token else None)
        case _:
            raise ConfigurationError("This text names no anchor.", fix=_FIX)


def __getattr__(name: str) -> object:
    if name == "PostgresAnchor":
        return _postgres()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _postgres() -> type[PostgresAnchor]:
    try:
        from shipworthy.adapters.postgres.anchor import PostgresAnchor
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"PostgresAnchor needs the package {error.name}.", fix='pip install "shipworthy[postgres]"'
        ) from error
    return PostgresAnchor


def _objects(given: str) -> Anchor:
    try:
        parts = urlsplit(given)
        asked = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError("This text names no anchor.", fix=_FIX) from None
    known = set(asked) <= {"region", "endpoint_url"}
    if not known or not parts.netloc or "@" in parts.netloc or parts.fragment:
        raise ConfigurationError(
            "This address names no bucket, or says more than region= and endpoint_url=.", fix=_FIX
        )
    from shipworthy.adapters.s3.anchor import ObjectAnchor

    prefix = unquote(parts.path.lstrip("/"))
    return ObjectAnchor(
        parts.netloc,
        prefix=prefix + "/" if prefix and not prefix.endswith("/") else prefix,
        region=asked.get("region", [None])[0],
        endpoint_url=asked.get("endpoint_url", [None])[0],
    )
