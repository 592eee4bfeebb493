"""Test doubles for users and for ourselves: build against these first, and swap in the real thing in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shipworthy.ports.real_calls import allow_model_calls as allow_model_calls
    from shipworthy.testing.embedders import FakeEmbedder as FakeEmbedder
    from shipworthy.testing.embedders import HashEmbedder as HashEmbedder
    from shipworthy.testing.scripted import EchoModel as EchoModel
    from shipworthy.testing.scripted import ScriptedModel as ScriptedModel
    from shipworthy.testing.scripted import ScriptedTurn as ScriptedTurn
    from shipworthy.testing.scripted import mock as mock

_HOME = {
    "allow_model_calls": "shipworthy.ports.real_calls",
    "FakeEmbedder": "shipworthy.testing.embedders",
    "HashEmbedder": "shipworthy.testing.embedders",
    "EchoModel": "shipworthy.testing.scripted",
    "ScriptedModel": "shipworthy.testing.scripted",
    "ScriptedTurn": "shipworthy.testing.scripted",
    "mock": "shipworthy.testing.scripted",
}

__all__ = [
    "EchoModel",
    "FakeEmbedder",
    "HashEmbedder",
    "ScriptedModel",
    "ScriptedTurn",
    "allow_model_calls",
    "mock",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'shipworthy.testing' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
