"""What an agent's runs leave behind for others to read: the audit log, telemetry and other readers, as options."""

from __future__ import annotations

from typing import Any

from shipworthy.errors import ConfigurationError
from shipworthy.ports.audit import AuditLog
from shipworthy.ports.readers import Reader


def audit_log_of(given: Any) -> AuditLog:
    """A log. Raises ConfigurationError."""
    if isinstance(given, type) or not all([hasattr(given, name) for name in ("append", "links", "carried")]):
        raise ConfigurationError(
            f"audit_log={given!r} is no audit log.",
            fix='Pass one, such as FileAuditLog("audit.jsonl", secret=...).',
        )
    log: AuditLog = given
    return log


def telemetry_of(given: Any) -> Reader:
    """Who makes spans and metrics. Raises ConfigurationError."""
    if isinstance(given, type) or not all([hasattr(given, name) for name in ("sitting", "trace")]):
        raise ConfigurationError(
            f"telemetry={given!r} makes no telemetry.",
            fix="Pass OTelTelemetry(), ConsoleTelemetry() or InMemoryTelemetry().",
        )
    reader: Reader = given
    return reader
