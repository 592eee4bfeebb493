"""What readers that tell of spans and measurements have in common: each sitting's fold, on the thread of a spool."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import get_args

from shipworthy.adapters.shared.spool import Spool
from shipworthy.domain.events import AnyEvent, ModelRequested, RunStarted
from shipworthy.errors import ConfigurationError
from shipworthy.ports.readers import Sight
from shipworthy.rules.telemetry.identity import Identities, MetricIdentity
from shipworthy.rules.telemetry.names import SCOPE
from shipworthy.rules.telemetry.records import Record, SpanOpened
from shipworthy.rules.telemetry.spans import Fold
from shipworthy.rules.telemetry.whose import Told

NOTHING: AbstractContextManager[None] = nullcontext()
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,99}")
Job = tuple["Watch", Sequence[AnyEvent], int, int]
"""A sitting, what it saw, how many attempts of the model came before, and when: nanoseconds, 0 for nobody asks."""


class Telemetry:
    """A reader that has a fold tell of each sitting, on a thread of its own. Subclasses have `told`.

    `queue`: so many commits may wait to be told of; what comes beyond them is not told of, and counted in `dropped`.
    """

    def __init__(
        self,
        *,
        capture_content: bool = False,
        metric_prefix: str = SCOPE,
        metric_identity: MetricIdentity = "none",
        metric_identities: int = 100,
        queue: int = 10_000,
    ) -> None:
        if metric_identity not in get_args(MetricIdentity):
            raise ConfigurationError(
                f"metric_identity is {metric_identity!r}.", fix='Give "none", "tenant" or "user".'
            )
        if not isinstance(metric_prefix, str) or not _PREFIX.fullmatch(metric_prefix):
            raise ConfigurationError(
                f"metric_prefix is {metric_prefix!r}.",
                fix="Give a word such as 'loom': letters, digits, '_', '.', '-' and '/', a letter first.",
            )
        if type(capture_content) is not bool:
            raise ConfigurationError(f"capture_content is {capture_content!r}.", fix="Give True or False.")
        for name, value in (("metric_identities", metric_identities), ("queue", queue)):
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name} is {value!r}.", fix="Give a whole number from 1 on.")
        self.capture_content, self.metric_prefix = capture_content, metric_prefix
        self.identities = Identities(metric_identity, metric_identities)
        self.spool = Spool(f"shipworthy-{type(self).__name__}", self._work, queue)

    @property
    def dropped(self) -> int:
        """How many commits were not told of, because too many waited."""
        return self.spool.dropped

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all that was seen by now is told, at most so many seconds; whether it is."""
        return self.spool.flush(timeout)

    def close(self, timeout: float = 10.0) -> bool:
        """Flush, and tell of nothing more; whether all was told."""
        return self.spool.close(timeout)

    # the port

    def sitting(self, sight: Sight) -> Watch:
        """Observe a sitting."""
        return Watch(self, sight, self.fold(told_of(sight), sight))

    def trace(self) -> str:
        """None: nothing is propagated."""
        return ""

    def fold(self, told: Told, sight: Sight, *, measures: bool = True, again: bool = False) -> Fold:
        """What a sitting is told with."""
        return Fold(
            told,
            sight.past,
            whose=self.identities.of(sight.scope),
            measures=measures,
            content=self.capture_content,
            again=again,
        )

    def told(self, watch: Watch, records: list[Record]) -> None:
        """Tell them; on the spool's thread."""
        raise NotImplementedError

    def _work(self, job: Job) -> None:
        watch, events, asked, now = job
        watch.now = now
        self.told(watch, watch.fold.feed(events, asked))


def told_of(sight: Sight) -> Told:
    """Whose spans a sitting's are."""
    told = Told(sight.scope, sight.run_id, sight.agents, sight.model)
    if sight.past and type(sight.past[0]) is RunStarted:
        told.began(sight.past[0])
    return told


class Watch:
    """One sitting, on the event loop: everything is put on the spool. `open`: spans of it that did not end, for whoever
    tells of them; on the spool's thread."""

    def __init__(self, telemetry: Telemetry, sight: Sight, fold: Fold) -> None:
        self.fold, self.sight = fold, sight
        self.asked = len([event for event in sight.past if type(event) is ModelRequested])
        self.now = 0
        self.open: dict[str, tuple[SpanOpened, str]] = {}
        self._spool = telemetry.spool

    def saw(self, events: Sequence[AnyEvent]) -> None:
        """Have them told."""
        self._spool.put((self, events, self.asked, 0))
        self.count(events)

    def count(self, events: Sequence[AnyEvent]) -> None:
        """Know how many attempts of the model there were, and what the run began with."""
        for event in events:
            if type(event) is ModelRequested:
                self.asked += 1
            elif type(event) is RunStarted:
                self.fold.told.began(event)

    def around(self, call_id: str | None) -> AbstractContextManager[None]:
        """Nothing."""
        return NOTHING

    def over(self, error: BaseException | None) -> None:
        """A sitting that comes to no end or pause is told of by the one that goes on."""
