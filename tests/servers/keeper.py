"""Keeps one server for the tests, and ends it when the tests are over, however they ended.

Run as `python -I keeper.py SESSION FOLDER USER SIGNAL COMMAND...`. It runs the command in FOLDER as USER (empty: as
whoever runs it), says its process id, and stays until it has ended. The session holds a lock on `SESSION/alive`,
which the kernel takes from it even when it is killed: then the server gets SIGNAL, and what it wrote is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PATIENCE = 5.0
"""Seconds that a server has to end by itself."""


def identity(user: str) -> dict[str, Any]:
    """What `Popen` needs in order to run something as *user*."""
    if not user:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _end_with(session: Path, server: subprocess.Popen[bytes], number: int) -> None:
    """End *server* when the session is over."""
    with (session / "alive").open() as alive:
        fcntl.flock(alive, fcntl.LOCK_SH)
    server.send_signal(number)
    time.sleep(PATIENCE)
    server.kill()


def main(session: Path, folder: Path, user: str, number: int, command: list[str]) -> None:
    """Keep the server that *command* starts, until it ends or the session does."""
    with (session / "keepers").open() as keepers:
        fcntl.flock(keepers, fcntl.LOCK_SH)  # for as long as this process lives
        with (folder / "log").open("ab") as log:
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
                **identity(user),
            )
        print(server.pid, flush=True)
        os.dup2(2, 1)  # whoever reads the line above need not wait for more
        threading.Thread(target=_end_with, args=(session, server, number), daemon=True).start()
        server.wait()
        with (session / "alive").open() as alive, contextlib.suppress(BlockingIOError):
            fcntl.flock(alive, fcntl.LOCK_SH | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            fcntl.flock(keepers, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the last one
            shutil.rmtree(session, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:])
