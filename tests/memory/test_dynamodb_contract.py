"""The memory store in DynamoDB keeps the laws of its port."""

from __future__ import annotations

import pytest

from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore
from shipworthy.ports.memory import MemoryStore
from shipworthy.testing.contracts.memory import (
    DURABLE_LAWS,
    LAWS,
    SHARED_LAWS,
    Law,
    MemoryStores,
    check,
    name,
)
from tests.servers.dynamodb import Table


class OnDynamoDB(MemoryStores):
    """Stores on one table."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    def make(self) -> MemoryStore:
        return DynamoDBMemoryStore(self._table.name, client=self._table.client(), create=True)


@pytest.mark.parametrize("law", LAWS + SHARED_LAWS + DURABLE_LAWS, ids=name)
def test_the_memory_store_in_dynamodb(law: Law, dynamodb_table: Table) -> None:
    check(law, OnDynamoDB(dynamodb_table))
