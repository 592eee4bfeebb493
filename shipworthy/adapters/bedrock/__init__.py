"""Models on Amazon Bedrock that make vectors."""

from __future__ import annotations

from shipworthy.adapters.bedrock.embeddings import BedrockEmbedder

__all__ = ["BedrockEmbedder"]
