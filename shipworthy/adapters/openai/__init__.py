"""OpenAI's models, and the many servers that speak its chat completions and its embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipworthy.adapters.openai.chat import OpenAIChat
from shipworthy.adapters.openai.responses import OpenAIResponses

if TYPE_CHECKING:
    from shipworthy.adapters.openai.embeddings import OpenAIEmbedder as OpenAIEmbedder

__all__ = ["OpenAIChat", "OpenAIEmbedder", "OpenAIResponses"]


def __getattr__(name: str) -> object:
    if name == "OpenAIEmbedder":  # brings numpy, which a model does not need
        from shipworthy.adapters.openai.embeddings import OpenAIEmbedder

        return OpenAIEmbedder
    raise AttributeError(f"module 'shipworthy.adapters.openai' has no attribute {name!r}")
