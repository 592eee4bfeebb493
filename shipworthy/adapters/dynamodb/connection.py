"""The way to DynamoDB: threads that wait for boto3, bounded attempts, the errors of AWS as ours."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from shipworthy.errors import (
    ConfigurationError,
    MemoryFull,
    MemoryReadOnly,
    MemoryStoreError,
    MemoryUnavailable,
    MissingExtra,
    RecordTooLarge,
)

try:
    from boto3.session import Session  # type: ignore[import-untyped]
    from botocore import exceptions as errors  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtra(
        f"A memory in DynamoDB needs the package boto3: {error}.", fix="pip install 'shipworthy[dynamodb]'"
    ) from None

T = TypeVar("T")

THREADS = 16
"""Requests of one store that are on their way at once."""
PAUSE = 0.02
"""Seconds before the second attempt; twice as many, and somewhat more or less, before each further one."""
ACTIONS = (
    "dynamodb:DescribeTable, GetItem, BatchGetItem, Query, ConditionCheckItem, PutItem, UpdateItem and DeleteItem on "
    "the table and on its index (CreateTable too, with create=True)"
)
_AGAIN = {
    "InternalServerError",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TransactionConflict",
    "TransactionConflictException",
    "TransactionInProgressException",
}
"""Worth another attempt."""
_CHANGED = {"ConditionalCheckFailed", "ConditionalCheckFailedException", "ResourceInUseException"}
_CREDENTIALS = {
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "UnrecognizedClientException",
}
_WRITES = {"put_item", "update_item", "delete_item", "transact_write_items", "create_table"}
_AWAY = (errors.ConnectionError, errors.HTTPClientError, errors.IncompleteReadError, OSError)
"""What says nothing of whether the server has done it: every request may come twice."""


class Changed(Exception):
    """What a request asked to be so is not so (any more); nothing was written. Never leaves the adapter."""


class NoTable(MemoryStoreError):
    """There is no table of this name."""


class Connection:
    """Requests about one table. *timeout*: seconds for one attempt's connecting and for its answer; *patience*: seconds
    in which attempts are begun again."""

    def __init__(
        self,
        table: str,
        region: str | None,
        endpoint_url: str | None,
        client: Any,
        timeout: float,
        patience: float,
    ) -> None:
        self.table, self.patience = table, patience
        self._where, self._given, self._timeout = (region, endpoint_url), client, timeout
        self._lock = threading.Lock()
        self._made: Any = None
        self._pool: ThreadPoolExecutor | None = None
        self._job = threading.local()

    @property
    def name(self) -> str:
        """The table in a message."""
        where = self._where[1] or self._where[0]
        return f"The DynamoDB table {self.table}" + (f" ({where})" if where else "")

    # threads

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """What *work* gives, which may wait. One that is cancelled begins no further attempt, and is waited for: what
        it was doing is done, or not, when the caller goes on."""
        stop, loop = threading.Event(), asyncio.get_running_loop()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, "shipworthy-dynamodb")
            doing = loop.run_in_executor(self._pool, self._do, stop, functools.partial(work, *arguments))
        cancelled: asyncio.CancelledError | None = None
        while not doing.done():
            try:
                await asyncio.wait([doing])
            except asyncio.CancelledError as error:
                cancelled = error
                stop.set()
        if cancelled is not None:
            doing.exception()  # nobody will ask
            raise cancelled
        return doing.result()

    def _do(self, stop: threading.Event, work: Callable[[], T]) -> T:
        if stop.is_set():
            raise MemoryUnavailable("The request was cancelled.")
        self._job.stop = stop
        try:
            return work()
        finally:
            self._job.stop = None

    async def close(self) -> None:
        """End the threads, when what runs on them is over, and the client, if it was not given."""
        with self._lock:
            pool, self._pool = self._pool, None
            made, self._made = self._made, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown)
        if made is not None and self._given is None:
            made.close()

    # requests, on one of the threads

    def ask(self, operation: str, **request: Any) -> Any:
        """The answer to a request, within the store's patience. Raises Changed, or a MemoryStoreError."""
        client = self._client()
        until, pause = time.monotonic() + self.patience, PAUSE
        while True:
            failed: Exception
            try:
                return getattr(client, operation)(**request)
            except (errors.BotoCoreError, errors.ClientError, OSError) as error:
                failed = error
            if _codes(failed) & _CHANGED:
                break
            if not _is_worth_another(failed) or time.monotonic() + pause > until or not self.rest(pause):
                break
            pause = min(2 * pause, 1.0)
        # Raised out here, so that the client's exception, with whatever it holds, is no context of ours.
        raise self.translated(operation, failed)

    def rest(self, seconds: float) -> bool:
        """Wait for about so long. False: nobody wants the answer any more."""
        stop: threading.Event | None = getattr(self._job, "stop", None)
        seconds *= random.uniform(0.5, 1.5)
        if stop is None:
            time.sleep(seconds)
            return True
        return not stop.wait(seconds)

    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        region, endpoint = self._where
        config = Config(
            connect_timeout=self._timeout,
            read_timeout=self._timeout,
            max_pool_connections=THREADS,
            retries={"total_max_attempts": 1},
        )
        try:
            return Session().client("dynamodb", region_name=region, endpoint_url=endpoint, config=config)
        except errors.NoRegionError:
            fix = 'Pass region="eu-central-1", or set AWS_DEFAULT_REGION.'
            raise ConfigurationError(f"{self.name} is in no region.", fix=fix) from None
        except (errors.BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"{self.name} has no client: {_said(error)}.", fix=_ADDRESS) from None

    def translated(self, operation: str, error: Exception) -> Exception:
        """The one place where the client's errors become ours."""
        codes, said = _codes(error), f"{self.name} failed: {_said(error)}."
        if codes & _CHANGED:
            return Changed()
        if "ResourceNotFoundException" in codes:
            return self.no_table()
        if "AccessDeniedException" in codes:
            kind = MemoryReadOnly if operation in _WRITES else MemoryStoreError
            return kind(said, fix=f"Allow the process {ACTIONS}.")
        if codes & _CREDENTIALS or isinstance(
            error, (errors.NoCredentialsError, errors.CredentialRetrievalError)
        ):
            return MemoryStoreError(
                said, fix="Give the process credentials that hold: see boto3's `credentials`."
            )
        if "ItemCollectionSizeLimitExceededException" in codes:
            return MemoryFull(
                said, fix="A partition has at most 10 GB: forget some of it, or use narrower ones."
            )
        if "Item size" in said or "item size" in said:
            return RecordTooLarge(said)
        if codes & _AGAIN or isinstance(error, _AWAY):
            return MemoryUnavailable(
                said, fix="Look at its capacity and at the way to it; nothing acknowledged is lost."
            )
        return MemoryStoreError(said, fix="Look at the table, and at what the process may do with it.")

    def no_table(self) -> NoTable:
        """There is none of this name."""
        return NoTable(
            f"{self.name} is not there.",
            fix="Pass create=True, or make it: keys pk and sk, both strings, and a local index by_n of pk and the "
            "number n, with the attributes e and k.",
        )


_ADDRESS = "Pass region= and, for another server than AWS', endpoint_url=http://host:port."


def _codes(error: Exception) -> set[str]:
    """What AWS calls it; of a transaction also the reasons."""
    if not isinstance(error, errors.ClientError):
        return set()
    said = error.response
    reasons = [reason.get("Code", "") for reason in said.get("CancellationReasons") or ()]
    if "TransactionConflict" in reasons and not _CHANGED & set(reasons):
        return {"TransactionConflict"}
    return {said.get("Error", {}).get("Code", ""), *reasons}


def _is_worth_another(error: Exception) -> bool:
    return isinstance(error, _AWAY) or bool(_codes(error) & _AGAIN)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
