"""Ed25519 (RFC 8032): with `cryptography` where that is installed, in Python alone where it is not."""

from __future__ import annotations

import functools
from hashlib import sha512
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def _is_there() -> bool:
    """Whether the library can be imported."""
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError:
        return False
    return True


FAST = _is_there()

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_Point = tuple[int, int, int, int]


def _recover(data: bytes) -> _Point | None:
    """Decode a point, or give None where the bytes are none."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return x, y, 1, x * y % _P


def _add(a: _Point, b: _Point) -> _Point:
    """Add two points of the curve."""
    e = (a[1] - a[0]) * (b[1] - b[0]) % _P
    f = (a[1] + a[0]) * (b[1] + b[0]) % _P
    g = 2 * a[3] * b[3] * _D % _P
    h = 2 * a[2] * b[2] % _P
    i, j, k, m = f - e, h - g, h + g, f + e
    return i * j % _P, k * m % _P, j * k % _P, i * m % _P


def _compress(point: _Point) -> bytes:
    """Encode a point."""
    z = pow(point[2], -1, _P)
    x, y = point[0] * z % _P, point[1] * z % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


_NEUTRAL: _Point = (0, 1, 1, 0)
_BASE: _Point = _recover((4 * pow(5, -1, _P) % _P).to_bytes(32, "little")) or _NEUTRAL


def _combine(a: int, one: _Point, b: int, two: _Point) -> _Point:
    """Compute a * one + b * two."""
    table = (_NEUTRAL, one, two, _add(one, two))
    total = _NEUTRAL
    for bit in range(max(a.bit_length(), b.bit_length()) - 1, -1, -1):
        total = _add(total, total)
        which = (a >> bit & 1) | (b >> bit & 1) << 1
        if which:
            total = _add(total, table[which])
    return total


def public_key(seed: bytes) -> str:
    """Give the public key, in hex, of a signing key's seed."""
    number = int.from_bytes(sha512(seed).digest()[:32], "little")
    number = number & (2**254 - 8) | 2**254
    return _compress(_combine(number, _BASE, 0, _NEUTRAL)).hex()


def verify_pure(public: bytes, message: bytes, signature: bytes) -> bool:
    """Check a signature without any library."""
    point, s = _recover(public), int.from_bytes(signature[32:], "little")
    if point is None or s >= _L or len(signature) != 64:
        return False
    k = int.from_bytes(sha512(signature[:32] + public + message).digest(), "little") % _L
    minus = (_P - point[0], point[1], 1, _P - point[3])
    return _compress(_combine(s, _BASE, k, minus)) == signature[:32]


def right(public: str, message: bytes, signature: str) -> bool:
    """Check a signature; key and signature are hex of the right length."""
    if not FAST:
        return verify_pure(bytes.fromhex(public), message, bytes.fromhex(signature))
    from cryptography.exceptions import InvalidSignature

    try:
        _loaded(public).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


@functools.lru_cache(64)
def _loaded(public: str) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
