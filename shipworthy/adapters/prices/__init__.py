"""Lists of prices that others keep."""

from __future__ import annotations

from shipworthy.adapters.prices.genai import GenaiPrices

__all__ = ["GenaiPrices"]
