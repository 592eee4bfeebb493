"""Embedders for tests: one that needs no model, and one whose vectors are told."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from shipworthy.errors import ConfigurationError, ScriptError
from shipworthy.ports.embedder import Purpose

_WORD = re.compile(r"\w+")
_warned = False


class HashEmbedder:
    """Vectors by the words of a text, the same on every machine: for tests, not for meaning.

    Texts are near to each other if they share words, and only then ("feature hashing", Weinberger et al. 2009): memory
    without an embedder finds as much. Its first use in a process that does not run under pytest warns of that.
    """

    def __init__(self, dimensions: int = 256) -> None:
        if dimensions < 1:
            raise ConfigurationError(
                "HashEmbedder needs dimensions.", fix="Pass dimensions=256, for example."
            )
        _warn_outside_of_tests()
        self.name = f"hash:{dimensions}"
        self.limit = 1_000
        self._dimensions = dimensions

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[list[float]]:
        """A vector of length 1 for each text."""
        return [self._vector(text) for text in texts]

    async def close(self) -> None:
        """Nothing is to be given up."""

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self._dimensions
        for word in _WORD.findall(text.lower()) or [text]:
            digest = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())
            place, sign = digest >> 1, digest & 1
            vector[place % self._dimensions] += 1.0 if sign else -1.0
        if not any(vector):  # its words cancelled each other
            vector[0] = 1.0
        length = math.sqrt(sum([number * number for number in vector]))
        return [number / length for number in vector]


def _warn_outside_of_tests() -> None:
    global _warned
    if _warned or "PYTEST_CURRENT_TEST" in os.environ or "PYTEST_VERSION" in os.environ:
        return
    _warned = True
    warnings.warn(
        "HashEmbedder is for tests: it knows words and not what they mean. Install shipworthy[local] and use "
        'embedder="local", or name a provider\'s model; without an embedder memory is found by its words.',
        stacklevel=3,
    )


class FakeEmbedder:
    """Vectors as told, by the exact text; *otherwise* is that of every other text.

    A text that nobody told of raises ScriptError, which names it. `asked` has what was asked, in order. *name* is what
    stores keep: another one is another embedder to them.
    """

    def __init__(
        self,
        vectors: Mapping[str, Sequence[float]],
        otherwise: Sequence[float] | None = None,
        *,
        name: str = "fake",
    ) -> None:
        told = [*vectors.values(), *([] if otherwise is None else [otherwise])]
        if len({len(vector) for vector in told}) > 1:
            raise ConfigurationError(
                "The vectors of a FakeEmbedder have different lengths.", fix="Give all of them one length."
            )
        self.name = name
        self.limit = 100
        self.asked: list[tuple[str, Purpose]] = []
        self._vectors = {text: list(vector) for text, vector in vectors.items()}
        self._otherwise = None if otherwise is None else list(otherwise)

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[list[float]]:
        """The vectors that were told. Raises ScriptError."""
        self.asked.extend((text, purpose) for text in texts)
        return [self._vector(text) for text in texts]

    async def close(self) -> None:
        """Nothing is to be given up."""

    def _vector(self, text: str) -> list[float]:
        vector = self._vectors.get(text, self._otherwise)
        if vector is None:
            raise ScriptError(
                f"FakeEmbedder was told no vector for {text!r}.",
                fix="Add the text to its mapping, or pass otherwise= for all texts that are not in it.",
            )
        return list(vector)
