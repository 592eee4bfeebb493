"""Cohere's models that make vectors."""

from __future__ import annotations

from shipworthy.adapters.cohere.embeddings import CohereEmbedder

__all__ = ["CohereEmbedder"]
