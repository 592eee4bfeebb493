"""all-MiniLM-L6-v2 on onnxruntime: one session and one thread per process, and never the network.

The vectors are made as its authors do it (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2): tokens up to
256, the mean of their states, at length 1.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shipworthy.adapters.local.files import MODEL, TOKENIZER, checked, ensure_installed
from shipworthy.adapters.shared.embedding import plain
from shipworthy.errors import EmbedderError
from shipworthy.ports.embedder import Purpose
from shipworthy.rules.text import clean, described

DIMENSIONS = 384
LONGEST = 256
"""Tokens of a text that count, as the model was trained."""
CHARACTERS = 16_384
"""Characters of a text that are made into tokens at all, so that a huge text costs no more than a long one."""
AT_ONCE = 512
"""Tokens that are computed at once: more are no faster on a processor, and 512 take 50 MB less than 1,024 take 300."""


class LocalEmbedder:
    """Texts to vectors of 384 dimensions on this machine, without a key and without the network.

    The model is all-MiniLM-L6-v2 (English, int8 weights) of the extra `local`. It is loaded at the first use, once per
    process, and computes in a thread of its own. Of a longer text its beginning counts: 256 tokens, about 190 words.
    onnxruntime's telemetry is switched off for the process (ORT_DISABLE_TELEMETRY=1, unless the variable is set).
    Raises MissingExtra.
    """

    def __init__(self) -> None:
        ensure_installed()
        self.name = "local:all-MiniLM-L6-v2-int8"
        self.limit = 64

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[array[float]]:
        """A vector for each text; those of documents and of queries are made alike. Raises EmbedderError, also where
        the model's files are not those that are known."""
        if not texts:
            return []
        try:
            return await asyncio.get_running_loop().run_in_executor(_thread(), _embedded, list(texts))
        except EmbedderError:
            raise
        except Exception as error:
            raise EmbedderError(
                f"The local model failed: {described(error)}.",
                fix='Install it again: pip install --force-reinstall "shipworthy[local]".',
            ) from error

    async def close(self) -> None:
        """Nothing is to be given up: the model stays for others of the process."""


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "shipworthy-local")


# The session has no threads of its own and works on in a child; the thread is not there.
os.register_at_fork(after_in_child=_thread.cache_clear)


@functools.cache
def _loaded() -> tuple[Any, Any]:
    """The session and the tokenizer; asked for in the one thread, so that they are made once."""
    # onnxruntime tells its makers of each process and model unless this is set before it is imported. The call alone
    # leaves the uploader and a device's id behind; it is for a process that imported onnxruntime before.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    runtime, tokenizers = importlib.import_module("onnxruntime"), importlib.import_module("tokenizers")
    runtime.disable_telemetry_events()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # they keep what the largest batch took
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(checked(MODEL)), options, providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_file(str(checked(TOKENIZER)))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return session, tokenizer


def _embedded(texts: list[str]) -> list[array[float]]:
    session, tokenizer = _loaded()
    # One by one: `encode_batch` takes all processors, and warns of it in every process that is forked later.
    tokens = [tokenizer.encode(clean(text[:CHARACTERS])).ids for text in texts]
    made: dict[int, array[float]] = {}
    for batch in _batches(tokens):
        rows = _pooled(session, [tokens[i] for i in batch])
        made.update((i, plain(row)) for i, row in zip(batch, rows, strict=True))
    return [made[i] for i in range(len(texts))]


def _batches(tokens: list[list[int]]) -> Iterator[list[int]]:
    """Which texts are computed together: those of like length, so that little is padded."""
    batch: list[int] = []
    for i in sorted(range(len(tokens)), key=lambda i: len(tokens[i])):
        if batch and (len(batch) + 1) * len(tokens[i]) > AT_ONCE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _pooled(session: Any, tokens: list[list[int]]) -> NDArray[np.float32]:
    ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    mask = np.zeros_like(ids)
    for row, found in enumerate(tokens):
        ids[row, : len(found)] = found
        mask[row, : len(found)] = 1
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    states = session.run(["last_hidden_state"], given)[0]
    weights = mask[..., None].astype(np.float32)
    means = (states * weights).sum(axis=1) / weights.sum(axis=1)
    unit: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit
