"""OpenAI's models, and the many servers that speak its chat completions."""

from __future__ import annotations

from shipworthy.adapters.openai.chat import OpenAIChat
from shipworthy.adapters.openai.responses import OpenAIResponses

__all__ = ["OpenAIChat", "OpenAIResponses"]
