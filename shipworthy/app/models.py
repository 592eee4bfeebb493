"""Which adapter answers to which 'provider:model'. A vendor is imported when it is asked for, not before."""

from __future__ import annotations

import difflib
import importlib

from shipworthy.errors import UnknownModel
from shipworthy.ports.model import Model

PROVIDERS = {
    "anthropic": ("shipworthy.adapters.anthropic", "AnthropicModel"),
    "openai": ("shipworthy.adapters.openai", "OpenAIChat"),
    "openai-responses": ("shipworthy.adapters.openai", "OpenAIResponses"),
}

_FAMILIES = {
    "claude": "anthropic",
    "gpt": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "chatgpt": "openai",
}


def resolve_model(text: str) -> Model:
    """The model that *text*, 'provider:model', names. Raises UnknownModel, MissingExtra, MissingKey."""
    provider, _, model = text.strip().partition(":")
    if provider not in PROVIDERS or not model.strip():
        raise UnknownModel(f"No model is named {text!r}.", fix=_advice(provider, model.strip()))
    module, name = PROVIDERS[provider]
    adapter = getattr(importlib.import_module(module), name)(model.strip())
    return adapter  # type: ignore[no-any-return]


def _advice(provider: str, model: str) -> str:
    exist = ", ".join(f"'{name}:<model>'" for name in PROVIDERS)
    guess = _guess(provider, model)
    meant = f"Did you mean '{guess}'? " if guess else ""
    return f"{meant}There are: {exist}; or pass a Model object."


def _guess(provider: str, model: str) -> str | None:
    if not provider:
        return None
    if not model:
        family = _FAMILIES.get(provider.partition("-")[0].lower())
        if family:
            return f"{family}:{provider}"
    close = difflib.get_close_matches(provider.lower(), PROVIDERS, n=1)
    return f"{close[0]}:{model or '<model>'}" if close else None
