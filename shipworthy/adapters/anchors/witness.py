"""What a witness takes: checkpoints that are signed, by whom the log's earlier ones were, and that never go back. Knows
nothing of HTTP."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from shipworthy.adapters.anchors.file import FileAnchor
from shipworthy.adapters.shared.checkpoints import head_in
from shipworthy.adapters.shared.places import escaped
from shipworthy.domain.audit import TreeHead
from shipworthy.errors import AnchorError, ConfigurationError
from shipworthy.rules.audit import form
from shipworthy.rules.audit.signatures import is_signed

_OPEN = 1024
"""Names whose newest checkpoints are at hand."""
_LOCKS = 64


class NoCheckpoint(AnchorError):
    """What was sent is no checkpoint, or its signature is not right."""

    fix = "Send the line of a checkpoint as it was signed."


class AnotherSigner(AnchorError):
    """The log's earlier checkpoints were signed with another key."""

    fix = "If its key was rotated: start the witness with --accept and the new public key."


class _Shelf(FileAnchor):
    """A name's file. What it says goes to clients, so that the path is not in it."""

    @property
    def where(self) -> str:
        """Not the path."""
        return "The witness"


class Witness:
    """Checkpoints of whoever sends some, in a folder: a file for each name. *accept*: public keys that may sign logs
    which another key signed before."""

    def __init__(self, folder: str | os.PathLike[str], *, accept: Sequence[str] = ()) -> None:
        self._folder = Path(os.path.abspath(folder))
        for key in accept:
            if len(key) != 64 or not set(key) <= set("0123456789abcdef"):
                raise ConfigurationError(
                    f"{key!r} is not a public key.",
                    fix="Pass 64 hexadecimal digits: the `signer` of a checkpoint.",
                )
        self._accept = frozenset(accept)
        self._lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._anchors: OrderedDict[str, _Shelf] = OrderedDict()

    def keep(self, name: str, line: bytes) -> tuple[TreeHead, bool]:
        """The checkpoint, durably kept, and whether it is new. Raises NoCheckpoint, AnotherSigner, AnchorRefused, and
        AnchorError where it cannot be kept."""
        head = head_in(line)
        read = form.head_of(line)
        if head is None or read is None or head.name != name:
            raise NoCheckpoint("What was sent is no checkpoint, or one of another name.")
        if not is_signed(head.signer, read[1], read[2]):
            raise NoCheckpoint(f"The signature of a checkpoint of {name!r} is not right.")
        anchor = self._anchor(name)
        with self._locks[hash(name) % _LOCKS]:
            last = anchor.last(name, head.log)
            before = None if last is None else head_in(last)
            if before is not None and head.signer not in (before.signer, *self._accept):
                raise AnotherSigner(
                    f"The log {head.log} of {name!r} was signed with {before.signer[:12]}…, and this is "
                    f"{head.signer[:12]}…."
                )
            anchor.put(name, head.log, head.entries, line)
        return head, before is None or before.entries < head.entries

    def newest(self, name: str) -> Sequence[bytes]:
        """Of each log under this name, the checkpoint of the most entries."""
        return self._anchor(name).newest(name)

    def all(self, name: str) -> Iterator[bytes]:
        """Every checkpoint under this name."""
        return self._anchor(name).all(name)

    def prepare(self) -> None:
        """Make the folder. Raises ConfigurationError where it cannot be written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"{self._folder} cannot be made: {error.strerror}.",
                fix="Pass --dir a folder that can be written.",
            ) from None
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"{self._folder} cannot be written.", fix="Pass --dir a folder that can be written."
            )

    def _anchor(self, name: str) -> _Shelf:
        with self._lock:
            anchor = self._anchors.pop(name, None)
            if anchor is None:
                anchor = _Shelf(self._folder / f"n-{escaped(name)}")
                while len(self._anchors) >= _OPEN:
                    self._anchors.popitem(last=False)
            self._anchors[name] = anchor
            return anchor
