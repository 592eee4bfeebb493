"""Proofs, which are checked without the log and without a secret."""

from __future__ import annotations

from collections.abc import Iterable

from . import form, marks, tree

_INCLUSION = ("checkpoint", "entry", "index", "kind", "path", "v")
_CONSISTENCY = ("from", "kind", "path", "to", "v")
Signers = str | Iterable[str]


def _proof(proof: str | bytes, names: tuple[str, ...], kind: str) -> tuple[form.Members, list[bytes]] | None:
    """Give the members and the path of a proof of this kind."""
    found = form.members(form.as_bytes(proof).strip(), names)
    if found is None or found["kind"] != kind or type(found["v"]) is not int or found["v"] != 1:
        return None
    path = found["path"]
    if not isinstance(path, list) or len(path) > 128 or not all(form.is_hex(node, 64) for node in path):
        return None
    return found, [bytes.fromhex(node) for node in path]


def _signed(line: object, signers: Signers) -> marks.Mark | None:
    """Give the checkpoint that a line is, if one of these signers signed it."""
    mark = marks.read(form.as_bytes(line)) if isinstance(line, str) else None
    known = {signer.strip().lower() for signer in ([signers] if isinstance(signers, str) else signers)}
    return mark if mark is not None and mark.signer in known and mark.signed else None


def check_inclusion(proof: str | bytes, signer: Signers) -> tuple[bool, str]:
    """Whether an entry is under a checkpoint of this signer (or one of these), and why not."""
    read = _proof(proof, _INCLUSION, "inclusion")
    if read is None or type(read[0]["entry"]) is not str or type(read[0]["index"]) is not int:
        return False, "This is no inclusion proof."
    found, path = read
    mark = _signed(found["checkpoint"], signer)
    if mark is None:
        return False, "The checkpoint is not signed by this signer."
    line, index = form.as_bytes(found["entry"]), found["index"]
    entry = form.entry(line)
    if entry is None or entry[0] != index or entry[3] != mark.log or index >= mark.entries:
        return False, "The line is not an entry of this number under this checkpoint."
    if tree.included(line, index, mark.entries, path) != mark.root:
        return False, "The path does not lead from the entry to the checkpoint's root."
    return True, f"Entry {index} of the log {mark.log} is one of the {mark.entries} under the checkpoint."


def check_consistency(proof: str | bytes, signer: Signers) -> tuple[bool, str]:
    """Whether a later checkpoint only added to an earlier one, and why not.

    Over a key rotation, give both signers.
    """
    read = _proof(proof, _CONSISTENCY, "consistency")
    if read is None:
        return False, "This is no consistency proof."
    found, path = read
    signers = [signer] if isinstance(signer, str) else list(signer)
    old, new = _signed(found["from"], signers), _signed(found["to"], signers)
    if old is None or new is None:
        return False, "A checkpoint is not signed by a signer that was given."
    if old.log != new.log or old.entries > new.entries:
        return False, "The second checkpoint is not a later one of the same log."
    if not tree.extends(old.root, old.entries, new.root, new.entries, path):
        return False, "The path does not lead from the earlier root to the later one: history was changed."
    return True, f"The first {old.entries} of the {new.entries} entries of the log {new.log} are unchanged."


def check(proof: str | bytes, signer: Signers) -> tuple[bool, str]:
    """Check a proof of either kind."""
    consistency = form.members(form.as_bytes(proof).strip(), _CONSISTENCY) is not None
    return (check_consistency if consistency else check_inclusion)(proof, signer)
