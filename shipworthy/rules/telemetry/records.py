"""What telemetry has to say, before anybody's interface says it. Times are milliseconds since the Unix epoch."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shipworthy.rules.telemetry.names import Operation

Value = str | bool | int | float | tuple[str, ...]
Attributes = Mapping[str, Value]


class SpanOpened(msgspec.Struct, frozen=True):
    """A span began. `parent` is the key of the span that it is in, "" for that of a sitting, which is `under` a call of
    a run where it is nested. `trace`: the span's own traceparent where the journal says it; `link`: that of the run's
    first sitting. `past`: it is of an earlier sitting. `call`: the id of the call that it attempts."""

    key: str
    operation: Operation
    name: str
    at: int
    attributes: Attributes
    parent: str = ""
    under: tuple[str, str] | None = None
    trace: str = ""
    link: str = ""
    past: bool = False
    call: str = ""


class SpanClosed(msgspec.Struct, frozen=True):
    """A span ended. `error` is a class of errors, "" for none; `detail` a message, which may say what users wrote."""

    key: str
    at: int
    attributes: Attributes
    error: str = ""
    detail: str = ""


class Measured(msgspec.Struct, frozen=True):
    """A value for the metric of this name, without a prefix of anybody's. `attributes` may be shared."""

    metric: str
    value: int | float
    attributes: Attributes


Record = SpanOpened | SpanClosed | Measured
