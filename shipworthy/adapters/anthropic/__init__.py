"""Anthropic's models."""

from __future__ import annotations

from shipworthy.adapters.anthropic.messages import DEFAULT_MAX_TOKENS, AnthropicModel

__all__ = ["DEFAULT_MAX_TOKENS", "AnthropicModel"]
