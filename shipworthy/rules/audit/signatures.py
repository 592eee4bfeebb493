"""Ed25519 (RFC 8032), by the `cryptography` package, and a checkpoint made with it."""

from __future__ import annotations

from functools import lru_cache

from shipworthy.domain.audit import TreeHead
from shipworthy.rules.audit import form
from shipworthy.rules.audit.merkle import Tree


@lru_cache(maxsize=64)
def public_of(seed: bytes) -> bytes:
    """The public key of a seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def sign(seed: bytes, data: bytes) -> bytes:
    """The signature of *data*."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).sign(data)


def is_signed(public: str, data: bytes, signature: bytes) -> bool:
    """Whether the holder of this public key (hex) signed *data*."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def checkpoint(seed: bytes, log: str, name: str, tree: Tree, now: int) -> bytes:
    """The line of a checkpoint of all that is in *tree*."""
    head = TreeHead(
        at=now,
        entries=tree.size,
        log=log,
        name=name,
        peaks=tuple([peak.hex() for peak in tree.peaks]),
        root=tree.root().hex(),
        signer=public_of(seed).hex(),
    )
    plain = form.head_plain(head)
    return form.head_line(plain, sign(seed, plain))
