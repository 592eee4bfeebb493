"""Which embedder a name means. A vendor is imported when it is asked for, not before."""

from __future__ import annotations

import difflib
import importlib
from typing import cast

from shipworthy.adapters.local import files
from shipworthy.errors import ConfigurationError
from shipworthy.ports.embedder import Embedder

PROVIDERS = {
    "bedrock": ("shipworthy.adapters.bedrock", "BedrockEmbedder"),
    "cohere": ("shipworthy.adapters.cohere", "CohereEmbedder"),
    "openai": ("shipworthy.adapters.openai", "OpenAIEmbedder"),
}


def embedder_for(given: Embedder | str | None) -> Embedder | None:
    """The embedder that *given* means: "local", "openai:<model>", "cohere:<model>", "bedrock:<model>", an Embedder, or
    None for none. Raises ConfigurationError, MissingExtra, MissingKey."""
    if given is None:
        return None
    if isinstance(given, str):
        return _named(given.strip())
    if _is_embedder(given):
        return given
    raise ConfigurationError(
        f"embedder= is {given!r}, which is no embedder.",
        fix="Pass an object with name, limit, embed() and close(), such as LocalEmbedder(), or None.",
    )


def local_is_installed() -> bool:
    """Are the packages of the extra `local` there? Imports none of them."""
    return not files.missing()


def _named(text: str) -> Embedder:
    if text == "local":
        return _made("shipworthy.adapters.local", "LocalEmbedder")
    provider, _, model = text.partition(":")
    if provider not in PROVIDERS or not model:
        raise ConfigurationError(f"No embedder is named {text!r}.", fix=_advice(provider))
    return _made(*PROVIDERS[provider], model)


def _made(module: str, name: str, *arguments: str) -> Embedder:
    return cast(Embedder, getattr(importlib.import_module(module), name)(*arguments))


def _is_embedder(given: object) -> bool:
    named = isinstance(getattr(given, "name", None), str) and isinstance(getattr(given, "limit", None), int)
    return named and callable(getattr(given, "embed", None)) and callable(getattr(given, "close", None))


def _advice(provider: str) -> str:
    close = difflib.get_close_matches(provider.lower(), ["local", *PROVIDERS], n=1)
    meant = f"Did you mean '{close[0]}{'' if close[0] == 'local' else ':<model>'}'? " if close else ""
    exist = ", ".join(f"'{name}:<model>'" for name in PROVIDERS)
    return f"{meant}There are: 'local', {exist}; or pass an Embedder object."
