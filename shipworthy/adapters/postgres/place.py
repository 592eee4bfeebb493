"""Which database an address means, however it is written."""

from __future__ import annotations

import os

import psycopg
from psycopg.conninfo import conninfo_to_dict

from shipworthy.adapters.postgres.connection import checked


def place_of(dsn: str) -> str:
    """The same text for two addresses that name one database of one server, without user, password or settings. A
    server that is called by another name is another place here. Raises ConfigurationError."""
    defaults = {
        each.keyword.decode(): (each.val or b"").decode() for each in psycopg.pq.Conninfo.get_defaults()
    }
    said = {**defaults, **{key: str(value) for key, value in conninfo_to_dict(checked(dsn)).items() if value}}
    hosts = (said.get("host") or said.get("hostaddr") or "").split(",")
    ports = (said.get("port") or "5432").split(",")
    if len(ports) < len(hosts):
        ports = [ports[0]] * len(hosts)
    where = [f"{_host(host)}:{port or '5432'}" for host, port in zip(hosts, ports, strict=False)]
    return f"postgres:{','.join(where)}/{said.get('dbname') or said.get('user') or ''}"


def _host(name: str) -> str:
    return os.path.normpath(name) if name.startswith("/") else name.lower()
