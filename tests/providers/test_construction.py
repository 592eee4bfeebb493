"""Making a model: what is missing is said at once, and no test calls a real one unasked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from shipworthy.adapters.anthropic import AnthropicModel
from shipworthy.adapters.openai import OpenAIChat, OpenAIResponses
from shipworthy.app.models import resolve_model
from shipworthy.errors import ConfigurationError, MissingKey, RealModelRefused, UnknownModel
from shipworthy.ports.model import Model
from shipworthy.ports.real_calls import allow_model_calls
from tests.providers.asking import KEY, answer, asked, items
from tests.providers.emulators import Replay, Reply, chunks

ROOT = Path(__file__).parents[2]

HELLO = chunks({"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}, "[DONE]")


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_BASE_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SHIPWORTHY_ALLOW_MODEL_CALLS", raising=False)


@pytest.mark.parametrize("text", ["openai:gpt-5", "openai-responses:gpt-5", "anthropic:claude-sonnet-4-5"])
def test_a_missing_key_is_said_when_the_model_is_made(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ANTHROPIC_API_KEY" if text.startswith("anthropic") else "OPENAI_API_KEY"

    with pytest.raises(MissingKey, match=name):
        resolve_model(text)
    monkeypatch.setenv(name, "  \n")
    with pytest.raises(MissingKey, match=name):
        resolve_model(text)
    monkeypatch.setenv(name, "sk-ключ")
    with pytest.raises(MissingKey, match="characters"):
        resolve_model(text)
    monkeypatch.setenv(name, KEY)
    assert resolve_model(text).name == text


@pytest.mark.parametrize("make", [OpenAIChat, OpenAIResponses, AnthropicModel])
def test_a_local_server_needs_no_key(make: Callable[..., Model]) -> None:
    assert make("local", base_url="http://127.0.0.1:1/v1").name.endswith(":local")


@pytest.mark.parametrize("package", ["openai", "anthropic"])
def test_a_missing_package_names_its_extra(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from shipworthy.app.models import resolve_model\n"
        "from shipworthy.errors import MissingExtra\n"
        "try:\n"
        f"    resolve_model('{package}:some-model')\n"
        "except MissingExtra as error:\n"
        "    print(error)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert f'pip install "shipworthy[{package}]"' in done.stdout


@pytest.mark.parametrize("package", ["openai", "anthropic"])
def test_an_adapter_imports_its_vendor_only_when_a_model_is_made(package: str) -> None:
    program = f"import sys, shipworthy.adapters.{package}\nprint({package!r} in sys.modules, 'httpx2' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert done.stdout.split() == ["False", "False"], done.stderr


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "There are: "),
        ("opnai:gpt-5", "Did you mean 'openai:gpt-5'?"),
        ("Anthropic:claude-sonnet-4-5", "Did you mean 'anthropic:claude-sonnet-4-5'?"),
        ("gpt-5", "Did you mean 'openai:gpt-5'?"),
        ("claude-sonnet-4-5", "Did you mean 'anthropic:claude-sonnet-4-5'?"),
        ("openai:", "There are: "),
        ("nobody:x", "'openai-responses:<model>'"),
    ],
)
def test_an_unknown_model_comes_with_advice(text: str, advice: str) -> None:
    with pytest.raises(UnknownModel) as raised:
        resolve_model(text)

    assert advice in raised.value.fix


def test_a_model_name_may_have_colons_of_its_own() -> None:
    assert OpenAIChat("qwen3:8b", base_url="http://127.0.0.1:1/v1").name == "openai:qwen3:8b"


# --------------------------------------------------------------------------------------------- the switch


def make_all(url: str) -> list[Model]:
    return [make("m", base_url=url) for make in (OpenAIChat, OpenAIResponses, AnthropicModel)]


def test_no_test_calls_a_model_unasked() -> None:
    """Loopback included: a proxy there may spend money. Nothing is sent."""

    async def run() -> int:
        async with Replay([HELLO]) as server:
            for model in make_all(server.url):
                for stream in (True, False):
                    with pytest.raises(
                        RealModelRefused, match=r"allow_model_calls|SHIPWORTHY_ALLOW_MODEL_CALLS"
                    ):
                        await items(model, asked(stream=stream))
            return len(server.requests)

    assert asyncio.run(run()) == 0


def test_the_switch_is_asked_on_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> int:
        async with Replay([HELLO]) as server:
            model = OpenAIChat("m", base_url=server.url)
            with allow_model_calls():
                await asyncio.create_task(items(model, asked()))
            with pytest.raises(RealModelRefused):
                await items(model, asked())
            monkeypatch.setenv("SHIPWORTHY_ALLOW_MODEL_CALLS", "1")
            await items(model, asked())
            return len(server.requests)

    assert asyncio.run(run()) == 2


def test_outside_pytest_nothing_is_refused() -> None:
    program = (
        "from shipworthy.ports.real_calls import ensure_real_calls_allowed\n"
        "ensure_real_calls_allowed('openai:gpt-5')\nprint('allowed')"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True
    )

    assert done.stdout == "allowed\n", done.stderr


# ------------------------------------------------------------------------------------ clients of the caller


def given_client(kind: str, url: str) -> Any:
    if kind == "anthropic":
        return anthropic.AsyncAnthropic(api_key=KEY, base_url=url)
    return openai.AsyncOpenAI(api_key=KEY, base_url=url)


ADAPTERS: dict[str, Callable[..., Model]] = {
    "chat": OpenAIChat,
    "responses": OpenAIResponses,
    "anthropic": AnthropicModel,
}


@pytest.mark.wire
@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_given_client_retries_nothing_and_stays_open(kind: str) -> None:
    """A client's own default is two retries."""

    async def run() -> int:
        async with (
            Replay([Reply(b"{}", 500, "application/json")]) as server,
            given_client(kind, server.url) as client,
        ):
            model = ADAPTERS[kind]("m", client=client)
            with allow_model_calls(), pytest.raises(Exception, match="answered 500"):
                await items(model, asked())
            assert not client.is_closed()
            return len(server.requests)

    assert asyncio.run(run()) == 1


@pytest.mark.wire
@pytest.mark.parametrize("loops", ["one", "each"])
def test_a_given_client_belongs_to_one_loop_and_a_function_to_all(loops: str) -> None:
    model: Model | None = None

    async def run() -> str:
        nonlocal model
        async with Replay([HELLO]) as server:
            client = given_client("openai", server.url)
            model = model or OpenAIChat("m", client=client if loops == "one" else lambda: client)
            with allow_model_calls():
                part = answer(await items(model, asked())).parts[0]
            return getattr(part, "text", "")

    assert asyncio.run(run()) == "Hi"
    if loops == "one":
        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(run())


def test_a_client_beside_a_key_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="client="):
        OpenAIChat("m", api_key=KEY, client=given_client("openai", "http://127.0.0.1:1"))
