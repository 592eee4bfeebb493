"""The laws of a memory store.

    class MyStores(MemoryStores):
        def make(self) -> MemoryStore:
            return MyStore(self.url)

    @pytest.mark.parametrize("law", LAWS + SHARED_LAWS + DURABLE_LAWS, ids=name)
    def test_my_store(law: Law) -> None:
        check(law, MyStores(...))

`LAWS` hold for every store, `SHARED_LAWS` for one that several tasks and processes share, `DURABLE_LAWS` for one that
keeps what it has beyond the process. `Reader` is how an index follows a partition.
"""

from __future__ import annotations

from shipworthy.testing.contracts.memory.lasting import DURABLE, LASTING, SHARED_LASTING
from shipworthy.testing.contracts.memory.reading import READING, SHARED_READING
from shipworthy.testing.contracts.memory.stores import Law, MemoryStores, Reader, check, name
from shipworthy.testing.contracts.memory.whose import WHOSE
from shipworthy.testing.contracts.memory.writing import SHARED_WRITING, WRITING

LAWS = WRITING + READING + WHOSE + LASTING
SHARED_LAWS = SHARED_WRITING + SHARED_READING + SHARED_LASTING
DURABLE_LAWS = DURABLE

__all__ = ["DURABLE_LAWS", "LAWS", "SHARED_LAWS", "Law", "MemoryStores", "Reader", "check", "name"]
