"""Sittings of runs as DBOS workflows."""

from __future__ import annotations

from shipworthy.adapters.dbos.workflows import Workflows

__all__ = ["Workflows"]
