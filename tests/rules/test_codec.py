"""The journal's format."""

from __future__ import annotations

import subprocess
import sys

import pytest

FIRST_READS = """
import sys, threading, time
import msgspec._utils
from shipworthy.rules.codec import decode_events, encode_events
from shipworthy.testing.contracts.store.workers import ALICE, answer, ending, opening

batch = encode_events([*opening(ALICE, "r").events, *answer(3).events, *ending(4).events])
read = []
another = threading.Thread(target=lambda: read.append(len(decode_events(batch))))
made, inspect = 0, msgspec._utils._forward_ref

def inspect_and_be_interrupted(*annotation):
    global made
    if threading.current_thread() is threading.main_thread():
        made += 1
        if made == int(sys.argv[1]):
            another.start()
            time.sleep(0.05)
    return inspect(*annotation)

msgspec._utils._forward_ref = inspect_and_be_interrupted
read.append(len(decode_events(batch)))
another.join()
assert read == [4, 4]
"""


@pytest.mark.parametrize("moment", [25, 40])
def test_two_threads_may_read_a_journal_for_the_first_time_at_once(moment: int) -> None:
    """The second one comes while the first has looked at some of the types that events are made of."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_READS, str(moment)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
