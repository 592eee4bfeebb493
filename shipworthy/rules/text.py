"""Text that every encoder takes."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^\s'\"<>]*@")
_QUERY = re.compile(r"(://[^\s'\"<>?#]*)[?#][^\s'\"<>]*|[?&][\w.~%-]+=[^\s'\"<>]*")


def clean(text: str) -> str:
    """*text* with lone surrogates, which no UTF-8 can carry, replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def shown(text: str, limit: int) -> str:
    """The part of an oversized result that the model sees, with how to get at the rest."""
    return (
        f"{text[:limit]}\n\n[Result cut: the first {limit:,} of {len(text):,} characters are shown. "
        "Call the tool again with narrower arguments (a filter, a range, a smaller page) to see other parts.]"
    )


def described(error: BaseException) -> str:
    """An exception in words, whatever its own are worth."""
    try:
        return clean(f"{type(error).__name__}: {error}")
    except Exception:
        return f"{type(error).__name__} (it cannot be shown)"


def described_without_secrets(error: BaseException) -> str:
    """An exception of foreign code in words, without what the addresses in it may hide: who asks, with which password
    and with which query."""
    return _QUERY.sub(lambda match: f"{match[1] or ''}?...", _USER.sub("", described(error)))
