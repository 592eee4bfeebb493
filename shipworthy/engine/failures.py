"""What is recorded of an attempt that gave no answer."""

from __future__ import annotations

from shipworthy.domain.events import ModelFailed
from shipworthy.domain.usage import Usage
from shipworthy.engine.metering import Meter, Run
from shipworthy.errors import ModelError, ShipworthyError
from shipworthy.rules.text import clean, described

NOTHING = Usage()


def failure_of(run: Run, meter: Meter, error: Exception) -> ModelFailed:
    """The event of a failed attempt. The wait is decided here, once, so that replay needs no chance: the provider's
    own, or exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS, 2015)."""
    retry_after = error.retry_after if isinstance(error, ModelError) else None
    if retry_after is not None:
        import random

        backoff = random.uniform(0.0, min(20.0, 0.25 * 2.0**run.state.failures))
        retry_after = max(retry_after, backoff)
    said = clean(str(error)) if isinstance(error, ShipworthyError) else described(error)
    return ModelFailed(
        ordinal=run.state.ordinal,
        error=type(error).__name__,
        message=said,
        retry_after=retry_after,
        usage=reported if isinstance(reported := getattr(error, "usage", None), Usage) else NOTHING,
        charged=meter.failed(run, error),
    )
