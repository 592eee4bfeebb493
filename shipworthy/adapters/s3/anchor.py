"""An anchor in an object store: an object for each checkpoint, created and never written again.

The key of a checkpoint is `PREFIXn-NAME/LOG/ENTRIES`: the name in letters that any store takes (`places.escaped`), the
entries in twenty digits, so that keys are listed in the order of entries.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shipworthy.adapters.shared.checkpoints import checked, goes_back, head_in, rewrites
from shipworthy.adapters.shared.places import escaped
from shipworthy.domain.audit import TreeHead
from shipworthy.errors import AnchorError, ConfigurationError, MissingExtra

try:
    from boto3.session import Session  # type: ignore[import-untyped]
    from botocore import exceptions as errors  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtra(
        f"ObjectAnchor needs the package boto3: {error}.", fix='pip install "shipworthy[s3]"'
    ) from None

_THREADS = 16
_DIGITS = 20
_PAGE = 1000
_AGAIN = 5
"""How often one is written that another one is being written beside."""
_ADDRESS = "Pass region= and, for another server than AWS', endpoint_url=https://host:port."
_ALLOW = "Allow the process s3:PutObject, s3:GetObject and s3:ListBucket on this bucket and prefix, and nothing else."
_FIXES = {
    "NoSuchBucket": "Make the bucket, with Object Lock and a default retention; it is not made here.",
    "AccessDenied": _ALLOW,
    "Forbidden": _ALLOW,
    "403": _ALLOW,
    "InvalidAccessKeyId": "Give the process credentials that hold: see boto3's `credentials`.",
    "SignatureDoesNotMatch": "Give the process credentials that hold: see boto3's `credentials`.",
    "ExpiredToken": "Give the process credentials that hold: see boto3's `credentials`.",
}
_AWAY = "Look at the store and at the way to it; the checkpoint is sent again."


class ObjectAnchor:
    """Checkpoints in a bucket of an object store (Amazon S3, or one that speaks its API and honours If-None-Match).

    *prefix* begins all keys, such as "audit/". *client*: one of boto3's, where yours is not made from *region*,
    *endpoint_url* and the environment. *timeout*: seconds for connecting, and for an answer.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        region: str | None = None,
        endpoint_url: str | None = None,
        client: Any = None,
        timeout: float = 10.0,
    ) -> None:
        if not isinstance(bucket, str) or not bucket or not isinstance(prefix, str):
            raise ConfigurationError("bucket= and prefix= are texts.", fix='Pass "bucket", prefix="audit/".')
        self._bucket, self._prefix = bucket, prefix
        self._place, self._given, self._timeout = (region, endpoint_url), client, timeout
        self._lock = threading.Lock()
        self._made: Any = None
        self._proved = False

    @property
    def where(self) -> str:
        """Bucket and prefix."""
        _, _, host = (self._place[1] or "").rpartition("@")
        return f"The anchor s3://{self._bucket}/{self._prefix}" + (f" ({host})" if host else "")

    def put(self, name: str, log: str, entries: int, line: bytes) -> None:
        """Keep this checkpoint: the store has taken it when it returns."""
        head = checked(self.where, name, log, entries, line)
        self._prove()
        folder = self._folder(name, log)
        later = self._after(folder, entries)
        if later is None:
            if self._created(_key(folder, entries), line):
                return
        elif self._get(_key(folder, entries)) is None:
            raise goes_back(self.where, head, later)
        self._same(_key(folder, entries), head)

    def newest(self, name: str) -> Sequence[bytes]:
        """Of each log under this name, the checkpoint of the most entries."""
        found = []
        for folder in self._folders(name):
            last = self._last(folder)
            line = None if last is None else self._get(_key(folder, last))
            if line is not None:
                found.append(line)
        return found

    def all(self, name: str) -> Iterator[bytes]:
        """Every checkpoint under this name, log by log. Several are fetched at once, a page of keys at a time."""
        with ThreadPoolExecutor(_THREADS, "shipworthy-anchor") as pool:
            for folder in self._folders(name):
                last, more = 0, True
                while more:
                    counts, more = self._page(folder, last)
                    keys = [_key(folder, entries) for entries in counts]
                    for key, line in zip(keys, pool.map(self._get, keys), strict=True):
                        if line is None:
                            raise AnchorError(f"{self.where} lists {key}, and does not have it.", fix=_AWAY)
                        yield line
                    last = counts[-1] if counts else last

    def close(self) -> None:
        """Close the client, unless it was given."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made.close()

    # objects

    def _prove(self) -> None:
        """Once: that the store refuses to write an object again. Raises AnchorError."""
        if self._proved:
            return
        key = f"{self._prefix}conditional-writes"
        if self._created(key, b"shipworthy\n") and self._created(key, b"shipworthy\n"):
            raise AnchorError(
                f"{self.where} writes objects again that are there: it does not honour If-None-Match.",
                fix="Use a store that does, such as a current Amazon S3, MinIO, Cloudflare R2 or SeaweedFS.",
            )
        self._proved = True

    def _created(self, key: str, data: bytes) -> bool:
        """Whether the object was not there, and is now."""
        for attempt in range(_AGAIN):
            try:
                self._ask("put_object", Key=key, Body=data, IfNoneMatch="*")
            except errors.ClientError as error:
                code = _code(error)
                if code in ("PreconditionFailed", "412"):
                    return False
                if code not in ("ConditionalRequestConflict", "409") or attempt == _AGAIN - 1:
                    raise self._translated(error) from None
            else:
                return True
        return False

    def _same(self, key: str, head: TreeHead) -> None:
        """The object must be this checkpoint. Raises AnchorRefused."""
        line = self._get(key)
        there = None if line is None else head_in(line)
        if there is None or (there.name, there.log, there.root) != (head.name, head.log, head.root):
            raise rewrites(self.where, head)

    def _get(self, key: str) -> bytes | None:
        try:
            return bytes(self._ask("get_object", Key=key)["Body"].read())
        except errors.ClientError as error:
            if _code(error) in ("NoSuchKey", "404"):
                return None
            raise self._translated(error) from None
        except (errors.BotoCoreError, OSError) as error:
            raise self._translated(error) from None

    def _folder(self, name: str, log: str = "") -> str:
        folder = f"{self._prefix}n-{escaped(name)}/"
        return f"{folder}{log}/" if log else folder

    def _folders(self, name: str) -> list[str]:
        """Where the logs of this name are."""
        found: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = self._asked("list_objects_v2", Prefix=self._folder(name), Delimiter="/", **more)
            found += [each["Prefix"] for each in page.get("CommonPrefixes", ())]
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, folder: str, after: int, most: int = 0) -> tuple[list[int], bool]:
        """Of how many entries the next checkpoints are, and whether there may be more. What somebody else has put
        there is passed over, however much it is."""
        start, most = _key(folder, after), most or _PAGE
        while True:
            page = self._asked("list_objects_v2", Prefix=folder, StartAfter=start, MaxKeys=most)
            keys = [each["Key"] for each in page.get("Contents", ())]
            counts = [count for key in keys if (count := _entries(key, folder)) is not None]
            more = bool(page.get("IsTruncated") and keys)
            if counts or not more:
                return counts, more
            start, most = keys[-1], _PAGE

    def _after(self, folder: str, entries: int) -> int | None:
        """The entries of the next checkpoint after so many."""
        counts, _ = self._page(folder, entries, 1)
        return counts[0] if counts else None

    def _last(self, folder: str) -> int | None:
        """The most entries: a store lists from the first key on, so that steps are doubled, and then halved."""
        counts, more = self._page(folder, 0)
        if not counts or not more:
            return counts[-1] if counts else None
        last, step = counts[-1], counts[-1]
        while (found := self._after(folder, last + step)) is not None:
            last, step = found, 2 * step
        most = last + step
        while last < most:
            middle = (last + most) // 2
            found = self._after(folder, middle)
            if found is None:
                most = middle
            else:
                last = found
        return last

    # the client

    def _ask(self, operation: str, **request: Any) -> Any:
        try:
            return getattr(self._client(), operation)(Bucket=self._bucket, **request)
        except (errors.BotoCoreError, OSError) as error:
            raise self._translated(error) from None

    def _asked(self, operation: str, **request: Any) -> Any:
        try:
            return self._ask(operation, **request)
        except errors.ClientError as error:
            raise self._translated(error) from None

    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        region, endpoint = self._place
        config = Config(
            connect_timeout=self._timeout,
            read_timeout=self._timeout,
            max_pool_connections=_THREADS,
            retries={"total_max_attempts": 2, "mode": "standard"},
        )
        try:
            return Session().client("s3", region_name=region, endpoint_url=endpoint, config=config)
        except (errors.BotoCoreError, ValueError) as error:
            raise AnchorError(f"{self.where} has no client: {_said(error)}.", fix=_ADDRESS) from None

    def _translated(self, error: Exception) -> AnchorError:
        """The one place where the client's errors become ours."""
        if isinstance(error, (errors.NoCredentialsError, errors.CredentialRetrievalError)):
            fix = _FIXES["InvalidAccessKeyId"]
        elif isinstance(error, errors.ParamValidationError):
            fix = "Correct bucket= and prefix=."
        else:
            fix = _FIXES.get(_code(error), _AWAY)
        return AnchorError(f"{self.where} failed: {_said(error)}.", fix=fix)


def _key(folder: str, entries: int) -> str:
    return f"{folder}{entries:0{_DIGITS}}"


def _entries(key: str, folder: str) -> int | None:
    """The entries that a key is for; None for what somebody else has put there."""
    digits = key.removeprefix(folder)
    return int(digits) if len(digits) == _DIGITS and digits.isascii() and digits.isdigit() else None


def _code(error: Exception) -> str:
    return (
        str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, errors.ClientError) else ""
    )


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
