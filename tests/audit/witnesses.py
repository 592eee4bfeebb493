"""The real witness, on a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shipworthy.adapters.anchors.server import WitnessServer
from shipworthy.adapters.anchors.witness import Witness


@contextmanager
def a_witness(folder: Path, *, accept: Sequence[str] = (), **options: Any) -> Iterator[WitnessServer]:
    """A witness on a free port of loopback, which keeps what it has in *folder*."""
    witness = Witness(folder, accept=accept)
    witness.prepare()
    server = WitnessServer(witness, "127.0.0.1", 0, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
