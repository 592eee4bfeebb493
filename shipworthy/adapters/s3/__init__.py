"""What is kept in an object store that speaks the API of Amazon S3."""

from __future__ import annotations

from shipworthy.adapters.s3.anchor import ObjectAnchor

__all__ = ["ObjectAnchor"]
