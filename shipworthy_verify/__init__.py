"""Verify a shipworthy audit log. Written from the page of its format alone."""

from .cli import main
from .files import verify, verify_file
from .proofs import check_consistency, check_inclusion
from .report import Report

__all__ = ["Report", "check_consistency", "check_inclusion", "main", "verify", "verify_file"]
