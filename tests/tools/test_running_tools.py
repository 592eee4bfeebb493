"""A body runs, its result becomes parts, and a thread that outlives its call is known."""

import asyncio
import concurrent.futures
import contextvars
import functools
import logging
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.app import threads
from shipworthy.app.tools import FunctionTool, tool
from shipworthy.domain.context import RunContext
from shipworthy.domain.effects import DidNotHappen, Happened, Unknown
from shipworthy.domain.messages import File, Image, Text
from shipworthy.errors import NotDone, UnserialisableResult
from tests.tools.context import context

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")


def called(of: FunctionTool[Any, Any], arguments: str = "{}", deps: Any = None) -> tuple[Any, ...]:
    return asyncio.run(of.invoke(context(deps), of.parse(arguments)))


def returning(value: Any) -> FunctionTool[Any, Any]:
    async def give() -> Any:
        return value

    return tool(give, effect="read")


def text_of(value: Any) -> str:
    (part,) = called(returning(value))
    assert part.origin == "tool:give"
    assert part.trust == "untrusted"
    return str(part.text)


def test_an_async_body_runs_on_the_loop_with_its_context() -> None:
    @tool(effect="read")
    async def greet(ctx: RunContext[str], name: str, *, loud: bool = False) -> str:
        assert threading.current_thread() is threading.main_thread()
        return f"{ctx.deps} {name.upper() if loud else name} for {ctx.scope.tenant}"

    assert called(greet, '{"name":"al","loud":true}', deps="hi")[0].text == "hi AL for acme"
    assert not greet.threaded


def test_a_plain_body_runs_in_a_thread_with_the_callers_context_variables() -> None:
    @tool(effect="read")
    def where(ctx: RunContext[str], n: int) -> str:
        return f"{request_id.get()} {n} {threading.current_thread() is threading.main_thread()}"

    async def main() -> tuple[Any, ...]:
        request_id.set("r-7")
        return await where.invoke(context(), where.parse('{"n":3}'))

    assert asyncio.run(main())[0].text == "r-7 3 False"
    assert where.threaded


def test_a_plain_wrapper_around_an_async_body_is_awaited() -> None:
    async def body(n: int) -> str:
        return str(n + 1)

    @tool(effect="read")
    @functools.wraps(body)
    def wrapper(n: int) -> Awaitable[str]:
        return body(n)

    assert called(wrapper, '{"n":1}')[0].text == "2"


@pytest.mark.parametrize("error", [NotDone("no funds"), KeyError("x"), OSError(5, "io")])
def test_what_a_body_raises_is_what_the_caller_sees(error: Exception) -> None:
    async def fails() -> None:
        raise error

    def fails_in_thread() -> None:
        raise error

    for body in (fails, fails_in_thread):
        with pytest.raises(type(error)) as caught:
            called(tool(body, effect="once"))
        assert caught.value is error


@pytest.mark.parametrize("error", [StopIteration("done"), SystemExit(2)])
def test_a_body_that_would_end_the_loop_or_the_process_only_fails(error: BaseException) -> None:
    def stops() -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__):
        called(tool(stops, effect="read"))


def test_an_async_body_that_calls_exit_only_fails() -> None:
    async def leaves() -> None:
        sys.exit(2)

    with pytest.raises(RuntimeError, match="SystemExit"):
        called(tool(leaves, effect="read"))


@pytest.mark.parametrize("error", [asyncio.CancelledError(), concurrent.futures.CancelledError()])
def test_a_cancellation_within_a_body_is_not_taken_for_one_of_the_run(error: BaseException) -> None:
    async def gives_up() -> None:
        raise error

    def gives_up_in_thread() -> None:
        raise error

    with pytest.raises((RuntimeError, concurrent.futures.CancelledError)):
        called(tool(gives_up, effect="once"))
    with pytest.raises(RuntimeError, match="CancelledError"):
        called(tool(gives_up_in_thread, effect="once"))


def test_a_cancelled_call_returns_at_once_and_its_thread_is_known_until_it_ends() -> None:
    release, started = threading.Event(), threading.Event()

    @tool(effect="once")
    def slow() -> None:
        started.set()
        release.wait(10)

    async def main() -> None:
        call = asyncio.create_task(slow.invoke(context(), slow.parse("")))
        await asyncio.to_thread(started.wait)
        assert slow.still_running(context())
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert slow.still_running(context())
        assert not slow.still_running(context(call_id="call-2"))
        release.set()
        while slow.still_running(context()):  # noqa: ASYNC110 - it is this answer that is tested
            await asyncio.sleep(0.001)

    asyncio.run(main())


def test_a_call_that_was_cancelled_before_a_thread_was_free_never_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = concurrent.futures.ThreadPoolExecutor(1)
    monkeypatch.setattr(threads, "_pool", one)
    release, ran = threading.Event(), threading.Event()

    @tool(effect="once")
    def pay() -> None:
        ran.set()

    async def main() -> None:
        one.submit(release.wait, 10)
        call = asyncio.create_task(pay.invoke(context(), pay.parse("")))
        await asyncio.sleep(0)
        assert pay.still_running(context())
        call.cancel()
        with pytest.raises(NotDone, match="never started"):
            await call
        assert not pay.still_running(context())

    asyncio.run(main())
    release.set()
    one.shutdown()
    assert not ran.is_set()


def test_a_finished_call_is_not_running() -> None:
    @tool(effect="read")
    def quick() -> None: ...

    called(quick)

    assert not quick.still_running(context())


# ------------------------------------------------------------------------------------------- results


@dataclass
class Point:
    x: int


class Model(pydantic.BaseModel):
    x: int


class Flavour(StrEnum):
    SWEET = "sweet"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ("", ""),
        (None, "(no result)"),
        (True, "true"),
        (3, "3"),
        (Decimal("1.50"), '"1.50"'),
        (float("nan"), "nan"),
        ([float("inf"), 1.0], "[null,1.0]"),
        ([], "[]"),
        ({"a": {1}}, '{"a":[1]}'),
        (Point(1), '{"x":1}'),
        (Model(x=1), '{"x":1}'),
        ([Model(x=1), Point(2)], '[{"x":1},{"x":2}]'),
        (Flavour.SWEET, "sweet"),
        ({"path": Path("a/b")}, '{"path":"a/b"}'),
        (deque([1]), "[1]"),
        (range(3), "[0,1,2]"),
        ([ValueError("no")], '["ValueError: no"]'),
        ("a\ud800b", "a�b"),
        ({"k\udc00": ["\ud83d\ude00"]}, '{"k�":["😀"]}'),
    ],
)
def test_a_result_is_told_as_text_or_as_json(value: Any, text: str) -> None:
    assert text_of(value) == text


def test_parts_are_taken_as_they_are_but_never_trusted() -> None:
    image, file = Image(data=b"x"), File(data=b"y", name="a\ud800.pdf")

    parts = called(returning([Text("see", "developer", "trusted"), image, "and", file]))

    assert [(type(p), p.origin, p.trust) for p in parts] == [
        (kind, "tool:give", "untrusted") for kind in (Text, Image, Text, File)
    ]
    assert (parts[0].text, parts[1].data, parts[3].name) == ("see", b"x", "a�.pdf")


class Opaque:
    pass


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"raw", r"File\(data=\.\.\., name=\.\.\.\)"),
        (Opaque(), "Opaque.*Return a str"),
        ({"a": [Opaque()]}, "Opaque.*Return a str"),
        ({(1, 2): 3}, "dict.*Return a str"),
        ((n for n in range(3)), "generator.*Return a str"),
        (endless(), "contains itself"),
    ],
)
def test_a_result_that_cannot_be_told_says_so_after_the_body_ran(value: Any, words: str) -> None:
    with pytest.raises(UnserialisableResult, match=words):
        called(returning(value))


def test_a_body_cannot_pretend_that_it_returned() -> None:
    """The engine takes UnserialisableResult for "the effect happened"."""

    async def pretends() -> None:
        raise UnserialisableResult("not so")

    with pytest.raises(RuntimeError, match="not so"):
        called(tool(pretends, effect="once"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec=None)) | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)), inner),
    ).filter(lambda v: not isinstance(v, bytes))
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_every_result_made_of_builtins_can_be_journalled(value: Any) -> None:
    assert msgspec.json.encode(returning("").parts(value))


# -------------------------------------------------------------------------------------------- verify


def verified(verify: Callable[..., Any]) -> Any:
    @tool(effect="once", verify=verify)
    async def pay(amount: int) -> None: ...

    assert pay.verifies
    return asyncio.run(pay.verify(context(), pay.parse('{"amount":5}')))


def test_verify_asks_the_world_with_the_arguments_of_the_call() -> None:
    async def ask(ctx: RunContext[Any], args: Any) -> Happened:
        return Happened(f"{ctx.run_id} {args.amount}")

    def ask_in_thread(ctx: RunContext[Any], args: Any) -> DidNotHappen:
        assert threading.current_thread() is not threading.main_thread()
        return DidNotHappen()

    assert verified(ask) == Happened("run-1 5")
    assert verified(ask_in_thread) == DidNotHappen()


def test_a_verify_that_fails_or_says_something_else_leaves_the_call_in_doubt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(ctx: Any, args: Any) -> Happened:
        raise OSError("down")

    def leaves(ctx: Any, args: Any) -> Happened:
        sys.exit(1)

    def says_true(ctx: Any, args: Any) -> Any:
        return True

    with caplog.at_level(logging.WARNING):
        assert [verified(v) for v in (fails, leaves, says_true)] == [Unknown()] * 3
    assert ["down" in m or "SystemExit" in m or "bool" in m for m in caplog.messages] == [True] * 3


def test_a_tool_without_verify_knows_nothing() -> None:
    async def pay() -> None: ...

    made = tool(pay, effect="once")

    assert not made.verifies
    assert asyncio.run(made.verify(context(), made.parse(""))) == Unknown()


def test_the_result_of_a_settlement_is_told_like_that_of_the_body() -> None:
    assert returning("").parts({"id": 1}) == (Text('{"id":1}', "tool:give", "untrusted"),)
