"""A model that makes further attempts by itself has each of them reserved before it is made, and charged."""

from __future__ import annotations

from typing import Any

import pytest

from shipworthy import BudgetExceeded, ModelSettings, Usage
from shipworthy.domain.messages import Text
from shipworthy.domain.model import Answer
from shipworthy.errors import ModelUnavailable
from tests.engine.spending import Provider, charges, of_kind, of_user, spender
from tests.engine.test_budgets_charges import EVERYTHING, LOST, SLOW_DOWN, agree
from tests.engine.world import ALICE, go, journal


class Retrying(Provider):
    """Tries again by itself, on another model, as often as it must."""

    def __init__(self, failures: list[Exception], *, swallows: bool = False) -> None:
        super().__init__()
        self.failures, self.swallows = failures, swallows

    async def stream(self, request: Any) -> Any:
        for error in self.failures:
            self.seen.append(request)
            try:
                request = await request.meter.again("other:model", error)
            except BudgetExceeded:
                if self.swallows:
                    raise ModelUnavailable("all of them failed") from None
                raise
        self.seen.append(request)
        yield Answer(parts=(Text("Done."),), usage=Usage(input_tokens=40, output_tokens=20))


@pytest.mark.parametrize("error", [SLOW_DOWN, LOST, TimeoutError("a plain one")])
def test_each_attempt_that_a_model_makes_by_itself_is_reserved_and_charged(error: Exception) -> None:
    async def law() -> None:
        model = Retrying([error, error])
        agent = spender(model, EVERYTHING, settings=ModelSettings(max_tokens=500))
        result = await agent.run("Hi", run_id="r", **ALICE)
        events = await journal(agent, "r")
        kinds = [type(e).__name__ for e in events if type(e).__name__.startswith("Model")]
        assert kinds == ["ModelRequested", "ModelFailed"] * 2 + ["ModelRequested", "ModelAnswered"]
        asked = of_kind(events, "ModelRequested")
        assert [e.model for e in asked] == ["scripted", "other:model", "other:model"]
        assert len({e.reserved.id for e in asked}) == 3
        assert [r.ordinal for r in model.seen] == [0, 1, 2]
        assert [r.settings.max_tokens for r in model.seen] == [500] * 3
        assert (result.usage.requests, result.output) == (3, "Done.")
        total = await agree(agent, agent.runtime.store.ledger, "r", result=result)
        assert charges(events)[-1].cost == 40 * 2_000 + 20 * 20_000
        assert total.output_tokens == (20 if error is SLOW_DOWN else 1_020)

    go(law())


@pytest.mark.parametrize("swallows", [False, True])
def test_an_attempt_that_a_cap_does_not_afford_is_not_made(swallows: bool) -> None:
    async def law() -> None:
        model = Retrying([LOST], swallows=swallows)
        agent = spender(model, {"per_user_max_requests": 1})
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert (result.status, result.stop_reason) == ("stopped", "budget:per_user_max_requests")
        assert len(model.seen) == 1
        assert await of_user(agent.runtime.store.ledger, "requests") == (1, 0)

    go(law())


def test_a_model_that_is_refused_by_a_budget_of_others_has_failed() -> None:
    """A nested run's limit is a failure here, not a reason to ask for ever."""

    async def law() -> None:
        model = Provider(BudgetExceeded("the other's", limit="max_tokens"))
        agent = spender(model, EVERYTHING)
        result = await agent.run("Hi", run_id="r", **ALICE)
        assert (result.status, result.stop_reason, len(model.seen)) == ("failed", "model_error", 1)
        await agree(agent, agent.runtime.store.ledger, "r", result=result)

    go(law())
