"""Real servers for whichever test asks for one: started at the first use, one of each for all processes of pytest.

They fail, and do not skip, where they cannot be started.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.servers import session

if TYPE_CHECKING:
    from tests.servers.dynamodb import Table
    from tests.servers.postgres import Postgres


def pytest_configure() -> None:
    session.open_session(in_memory=os.environ.get("SHIPWORTHY_PROOF") != "long")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What was collected stays to the end: the collector is not to look through all of it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    session.close_session()


@pytest.fixture(scope="session")
def postgres() -> Postgres:
    """The session's server."""
    from tests.servers.postgres import postgres_server

    return postgres_server()


@pytest.fixture
def database() -> Iterator[str]:
    """The superuser's dsn of a database of this test alone, removed afterwards."""
    from tests.servers.postgres import a_database

    with a_database() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def temporal() -> str:
    """The address of the session's Temporal server."""
    from tests.servers.temporal import temporal_address

    return temporal_address()


@pytest.fixture
def redis_url() -> Iterator[str]:
    """The address of this process's Valkey server, which is empty."""
    from tests.servers.redis import a_redis_database

    with a_redis_database() as url:
        yield url


@pytest.fixture
def dynamodb_table() -> Iterator[Table]:
    """A name for a table of this test alone on the session's DynamoDB Local, removed afterwards."""
    from tests.servers.dynamodb import a_dynamodb_table

    with a_dynamodb_table() as made:
        yield made
