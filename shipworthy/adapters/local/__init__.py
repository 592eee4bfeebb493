"""A small model that makes vectors on this machine's own processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shipworthy.adapters.local.embedder import LocalEmbedder as LocalEmbedder

__all__ = ["LocalEmbedder"]


def __getattr__(name: str) -> object:
    if name == "LocalEmbedder":  # brings numpy, which asking whether the extra is installed does not need
        from shipworthy.adapters.local.embedder import LocalEmbedder

        return LocalEmbedder
    raise AttributeError(f"module 'shipworthy.adapters.local' has no attribute {name!r}")
