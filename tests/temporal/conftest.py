"""The zygote of the proofs ends with the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.proof import end_zygote as end_other_zygote
from tests.temporal.proof import end_zygote


@pytest.fixture(scope="session", autouse=True)
def zygotes() -> Iterator[None]:
    yield
    end_zygote()
    end_other_zygote()
