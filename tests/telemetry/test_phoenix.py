"""A collector with a user interface that someone else wrote takes our traces, and gives them back by its own interface.

It is 460 MB in an environment of its own: `make proof-telemetry` makes that, and runs this.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shipworthy import Agent, OTelTelemetry, ScriptedModel, ToolCall, tool
from shipworthy.rules.telemetry import names
from tests.telemetry import dying
from tests.telemetry.test_crash import expected, resumed
from tests.telemetry.test_spans import ALICE, turn

ROOT = Path(__file__).parents[2]
PHOENIX = Path(os.environ.get("SHIPWORTHY_PHOENIX") or ROOT / ".venv-phoenix" / "bin" / "phoenix")
pytestmark = [
    pytest.mark.wire,
    pytest.mark.skipif(
        not PHOENIX.exists(),
        reason=f"NO PHOENIX at {PHOENIX}: nothing here was tried on a real collector; `make proof-telemetry` does it",
    ),
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Phoenix:
    """A server on free ports of the loopback, which reaches nobody else."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.log = (folder / "log").open("wb")
        given = {
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(port),
            "PHOENIX_GRPC_PORT": str(free_port()),
            "PHOENIX_WORKING_DIR": str(folder),
            "PHOENIX_TELEMETRY_ENABLED": "false",
            "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
            "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
            "PHOENIX_ENABLE_MCP_SERVER": "false",
        }
        self.process = subprocess.Popen(
            [str(PHOENIX), "serve"], env=os.environ | given, stdout=self.log, stderr=self.log
        )
        until = time.monotonic() + 180
        while not self._answers():
            assert self.process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, "Phoenix did not start in three minutes"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def spans(self, project: str, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The spans of a project, once they are *enough*: what is posted is stored a little later."""
        until, found = time.monotonic() + 20, list[dict[str, Any]]()
        while not enough(found) and time.monotonic() < until:
            time.sleep(0.2)
            try:
                with urllib.request.urlopen(f"{self.url}/v1/projects/{project}/spans?limit=1000") as answer:
                    found = json.load(answer)["data"]
            except OSError:  # the project is made with its first span
                pass
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    server = Phoenix(tmp_path_factory.mktemp("phoenix"))
    yield server
    server.stop()


def test_a_run_is_a_tree_of_an_agent_its_model_and_its_tools(phoenix: Phoenix) -> None:
    resource = Resource.create({"openinference.project.name": "tree"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{phoenix.url}/v1/traces")))
    telemetry = OTelTelemetry(provider, NoOpMeterProvider())

    @tool(effect="read")
    async def look(at: str) -> str:
        """Look."""
        return f"{at} seen"

    script = [turn(ToolCall("look", {"at": "sea"}), tokens=11), turn("done", tokens=22)]
    agent = Agent("", model=ScriptedModel(script), tools=[look], telemetry=telemetry, name="scout")
    asyncio.run(agent.run("Go", **ALICE))
    assert telemetry.flush(10)
    provider.shutdown()

    spans = phoenix.spans("tree", lambda found: len(found) >= 4)
    assert Counter((span["name"], span["span_kind"]) for span in spans) == {
        ("invoke_agent scout", "AGENT"): 1,
        ("chat scripted", "LLM"): 2,
        ("execute_tool look", "TOOL"): 1,
    }
    root = next(span for span in spans if span["parent_id"] is None)
    assert root["name"] == "invoke_agent scout"
    assert {span["parent_id"] for span in spans if span is not root} == {root["context"]["span_id"]}
    for span in spans:
        assert (span["attributes"]["tenant_id"], span["attributes"]["user_id"]) == ("acme", "alice")
    tokens = [span["attributes"].get(names.INPUT_TOKENS, 0) for span in spans]
    assert sum(tokens) == 33
    assert sum([span["attributes"].get("llm.token_count.prompt", 0) for span in spans]) == 33, (
        "as it counts itself"
    )


def test_a_run_that_was_killed_and_resumed_has_every_span_once(
    phoenix: Phoenix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTLP_TRACES", f"{phoenix.url}/v1/traces")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "openinference.project.name=killed")
    command = [sys.executable, "-m", "tests.telemetry.dying", str(tmp_path), "tool", "99", "stable"]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -9
    before = phoenix.spans("killed", lambda found: len(found) >= 3)
    assert len(before) == 3
    events = resumed(tmp_path, dying.telemetry(tmp_path, stable=True))
    keys = expected(events)
    spans = phoenix.spans("killed", lambda found: len(found) >= len(keys))
    assert Counter(span["attributes"][names.KEY] for span in spans) == Counter(keys)
    assert {span["context"]["span_id"] for span in before} < {span["context"]["span_id"] for span in spans}
