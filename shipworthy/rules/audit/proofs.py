"""Inclusion and consistency proofs (RFC 6962, sections 2.1.1 and 2.1.2), made from a stream of lines in memory that
grows with the logarithm of the log, and checked by whoever has a signer's public key and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from shipworthy.domain.audit import FORMAT, TreeHead
from shipworthy.errors import InputError
from shipworthy.rules.audit import form
from shipworthy.rules.audit.formed import MAC
from shipworthy.rules.audit.heads import checkpoint_of
from shipworthy.rules.audit.merkle import leaf, node, split
from shipworthy.rules.audit.signatures import is_signed

_HASH = 64
_LONGEST = 64


class Inclusion(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="inclusion", forbid_unknown_fields=True
):
    """That an entry is under a checkpoint. Lines without their newline; nodes in hex, from the leaf's side on."""

    checkpoint: str
    entry: str
    index: int
    path: list[str]
    v: Literal[1] = FORMAT  # type: ignore[assignment]


class Consistency(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="consistency", forbid_unknown_fields=True
):
    """That a later checkpoint only added to an earlier one."""

    earlier: str = msgspec.field(name="from")
    path: list[str]
    later: str = msgspec.field(name="to")
    v: Literal[1] = FORMAT  # type: ignore[assignment]


Proof = Inclusion | Consistency
_decoder: msgspec.json.Decoder[Proof] = msgspec.json.Decoder(Proof)
_encoder = msgspec.json.Encoder(order="sorted")


class Checked(msgspec.Struct, frozen=True):
    """Whether a proof holds, and what it shows or why it shows nothing."""

    holds: bool
    what: str


# making


def prove_inclusion(lines: Iterable[bytes], index: int, checkpoint: bytes) -> Inclusion:
    """The proof that entry *index* of these entries' lines is under *checkpoint*. Raises InputError."""
    head = _head(checkpoint)
    if not 0 <= index < head.entries:
        raise InputError(
            f"Entry {index} is not under a checkpoint of {head.entries} entries.",
            fix="Prove it by a later checkpoint, or another entry.",
        )
    found: list[bytes] = []
    root, path = _path(_leaves(lines, index, found), index, head.entries)
    _is_of(head, root)
    return Inclusion(
        checkpoint=checkpoint.decode(),
        entry=found[0].decode(),
        index=index,
        path=[each.hex() for each in path],
    )


def prove_consistency(lines: Iterable[bytes], earlier: bytes, later: bytes) -> Consistency:
    """The proof that the checkpoint *later* of these entries' lines only added to *earlier*. Raises InputError."""
    first, second = _head(earlier), _head(later)
    if first.log != second.log or first.entries > second.entries:
        raise InputError(
            f"The checkpoints are of {first.entries} entries of {first.log}, then {second.entries} of {second.log}.",
            fix="Pass two checkpoints of one log, the one of fewer entries first.",
        )
    root, path = _subproof(_leaves(lines), first.entries, second.entries, whole=True)
    _is_of(second, root)
    return Consistency(earlier=earlier.decode(), path=[each.hex() for each in path], later=later.decode())


def _head(line: bytes) -> TreeHead:
    read = checkpoint_of(line)
    if read is None:
        raise InputError(
            "This is no checkpoint.", fix="Pass a line of the log's checkpoints, or of an anchor's."
        )
    return read[0]


def _is_of(head: TreeHead, root: bytes) -> None:
    if root.hex() != head.root:
        raise InputError(
            f"The checkpoint of {head.entries} entries is not of these entries.",
            fix="Run `shipworthy audit verify` with the anchor that keeps it: one of the two is another one.",
        )


def _leaves(lines: Iterable[bytes], index: int = -1, found: list[bytes] | None = None) -> Iterator[bytes]:
    """The leaves of entries' lines; the line of entry *index* is left in *found*."""
    for at, line in enumerate(lines):
        if at == index and found is not None:
            found.append(line)
        yield leaf(line)


def _next(leaves: Iterator[bytes]) -> bytes:
    found = next(leaves, None)
    if found is None:
        raise InputError(
            "The log has fewer entries than the checkpoint covers.",
            fix="Run `shipworthy audit verify` on it with this checkpoint's anchor.",
        )
    return found


def _root(leaves: Iterator[bytes], size: int) -> bytes:
    if size == 1:
        return _next(leaves)
    left = split(size)
    return node(_root(leaves, left), _root(leaves, size - left))


def _path(leaves: Iterator[bytes], index: int, size: int) -> tuple[bytes, list[bytes]]:
    """The root of so many leaves, and the path of one of them."""
    if size == 1:
        return _next(leaves), []
    left = split(size)
    if index < left:
        root, path = _path(leaves, index, left)
        other = _root(leaves, size - left)
        return node(root, other), [*path, other]
    other = _root(leaves, left)
    root, path = _path(leaves, index - left, size - left)
    return node(other, root), [*path, other]


def _subproof(leaves: Iterator[bytes], first: int, size: int, *, whole: bool) -> tuple[bytes, list[bytes]]:
    """The root of *size* leaves, and the proof that it is of the *first* and more. *whole*: their root is known."""
    if first == size:
        root = _root(leaves, size)
        return root, [] if whole else [root]
    left = split(size)
    if first <= left:
        root, path = _subproof(leaves, first, left, whole=whole)
        other = _root(leaves, size - left)
        return node(root, other), [*path, other]
    other = _root(leaves, left)
    root, path = _subproof(leaves, first - left, size - left, whole=False)
    return node(other, root), [*path, other]


# checking


def encode_proof(proof: Proof) -> bytes:
    """A proof as one line of JSON, its members in the order of their names."""
    return _encoder.encode(proof)


def proof_of(text: bytes) -> Proof | None:
    """The proof of a text; None for anything else."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def check(proof: Proof, *signers: str) -> Checked:
    """Whether a proof holds, for whoever knows that these (public keys, hex) sign the log's checkpoints."""
    if isinstance(proof, Inclusion):
        return _check_inclusion(proof, signers)
    return _check_consistency(proof, signers)


def _check_inclusion(proof: Inclusion, signers: Sequence[str]) -> Checked:
    head, line, path = _signed(proof.checkpoint, signers), _bytes(proof.entry), _nodes(proof.path)
    if head is None:
        return Checked(False, "The checkpoint is not signed by this signer.")
    entry = form.entry_of(line)
    if entry is None or entry.log != head.log or entry.seq != proof.index:
        return Checked(False, f"The entry is not entry {proof.index} of the checkpoint's log.")
    if path is None or not 0 <= proof.index < head.entries:
        return Checked(False, "The path is none of that entry.")
    if _climbed(leaf(line), proof.index, head.entries, path) != head.root:
        return Checked(False, "The path does not lead from the entry to the checkpoint's root.")
    return Checked(
        True, f"Entry {proof.index} of the log {head.log} is among the {head.entries} that were signed."
    )


def _check_consistency(proof: Consistency, signers: Sequence[str]) -> Checked:
    first, second, path = _signed(proof.earlier, signers), _signed(proof.later, signers), _nodes(proof.path)
    if first is None or second is None:
        return Checked(False, "A checkpoint is not signed by this signer.")
    if path is None or first.log != second.log or first.entries > second.entries:
        return Checked(False, "The second checkpoint is not of the first one's log, or not later.")
    if not _is_grown(first, second, path):
        return Checked(False, "The second checkpoint's root is not that of the first one's entries and more.")
    return Checked(
        True, f"The {second.entries} entries of the log {second.log} begin with the first {first.entries}."
    )


def _climbed(root: bytes, index: int, size: int, path: Sequence[bytes]) -> str | None:
    """The root to which a path leads (RFC 9162, section 2.1.3.2); None where it is too long or too short."""
    last = size - 1
    for other in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            root = node(other, root)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            root = node(root, other)
        index, last = index >> 1, last >> 1
    return None if last else root.hex()


def _is_grown(earlier: TreeHead, later: TreeHead, path: list[bytes]) -> bool:
    """Whether a proof leads to both roots (RFC 9162, section 2.1.4.2)."""
    if earlier.entries == later.entries:
        return not path and earlier.root == later.root
    if earlier.entries & (earlier.entries - 1) == 0:
        path = [bytes.fromhex(earlier.root), *path] if len(earlier.root) == _HASH else []
    if not path:
        return False
    first, last = earlier.entries - 1, later.entries - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    one = other = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            one, other = node(each, one), node(each, other)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            other = node(other, each)
        first, last = first >> 1, last >> 1
    return last == 0 and one.hex() == earlier.root and other.hex() == later.root


def _signed(text: str, signers: Sequence[str]) -> TreeHead | None:
    read = checkpoint_of(_bytes(text))
    if read is None or read[0].signer not in signers or not is_signed(read[0].signer, read[1], read[2]):
        return None
    return read[0]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _nodes(path: Sequence[str]) -> list[bytes] | None:
    if len(path) > _LONGEST or not all([MAC.match(each) for each in path]):
        return None
    return [bytes.fromhex(each) for each in path]
