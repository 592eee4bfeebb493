"""What a sitting measures: values for metrics, with the attributes that say of what."""

from __future__ import annotations

from collections.abc import Mapping

from shipworthy.domain.usage import Charge, Usage
from shipworthy.rules.telemetry import names
from shipworthy.rules.telemetry.names import AGENT, CHAT, OPERATION, PROVIDER, REQUEST_MODEL
from shipworthy.rules.telemetry.records import Attributes, Measured, Record
from shipworthy.rules.telemetry.whose import BILLION, Open, Told

NOTHING = Usage()


class Measuring:
    """Adds measurements to what is told; while it is `off`, none. Those of the same attributes share one mapping."""

    def __init__(self, whose: Mapping[str, str], told: Told, *, off: bool) -> None:
        self.off = off
        self.out: list[Record] = []
        self._whose, self._agent, self._model = dict(whose), told.agent, told.model
        self._known: dict[tuple[str, ...], Attributes] = {}

    def count(self, metric: str, value: int | float, *more: str) -> None:
        """A measurement of ours. *more*: names and values of attributes, in turn."""
        if not self.off:
            self.out.append(Measured(metric, value, self._of(AGENT, self._agent, *more)))

    def spent(self, span: Open | None, usage: Usage, charged: Charge | None) -> None:
        """What an attempt is charged, or else what its provider reported."""
        if self.off:
            return
        model = self._model if span is None else span.model
        what = usage if charged is None else charged
        of = self._of(AGENT, self._agent, REQUEST_MODEL, names.provider_and_model(model)[1])
        if what.input_tokens:
            self.out.append(Measured(names.TOKENS_INPUT, what.input_tokens, of))
        if what.output_tokens:
            self.out.append(Measured(names.TOKENS_OUTPUT, what.output_tokens, of))
        if charged is not None and charged.cost:
            self.out.append(Measured(names.COST_USD, charged.cost / BILLION, of))

    def operated(
        self, span: Open, at: int, usage: Usage = NOTHING, answered: str = "", error: str = ""
    ) -> None:
        """An attempt on the wire, as the conventions measure it."""
        if self.off:
            return
        provider, model = names.provider_and_model(span.model)
        common: tuple[str, ...] = (OPERATION, CHAT, PROVIDER, provider, REQUEST_MODEL, model)
        if answered:
            common = (*common, names.RESPONSE_MODEL, answered)
        lasted = self._of(*common, names.ERROR_TYPE, error) if error else self._of(*common)
        self.out.append(Measured(names.OPERATION_DURATION, max(at - span.at, 0) / 1000, lasted))
        for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if tokens is not None:
                of = self._of(*common, names.TOKEN_TYPE, kind)
                self.out.append(Measured(names.TOKEN_USAGE, tokens, of))

    def _of(self, *pairs: str) -> Attributes:
        known = self._known.get(pairs)
        if known is None:
            known = {**self._whose, **dict(zip(pairs[::2], pairs[1::2], strict=True))}
            self._known[pairs] = known
        return known
