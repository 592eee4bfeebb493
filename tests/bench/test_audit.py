"""The bench of audit logs runs, its floors do the work that they are said to do, and its log is a real one."""

import asyncio
import hmac
import json
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import audit  # type: ignore[import-not-found]  # noqa: E402
import chains  # type: ignore[import-not-found]  # noqa: E402

sys.path.pop(0)


def test_every_row_has_figures_of_both_sides(tmp_path: Path) -> None:
    rows = [*audit.append_rows(audit.QUICK, tmp_path), *audit.verify_rows(audit.QUICK, tmp_path)]
    rows += [*audit.durable_rows(audit.QUICK, tmp_path), *audit.turn_rows(audit.QUICK)]
    quick = [row for row in rows if "memory" not in row.name]

    audit.interleave(quick, 1, lambda _: None)

    assert len(quick) >= 13
    assert all(row.value("ours") > 0 and row.ratio() > 0 for row in quick)


def test_the_bare_log_is_chained() -> None:
    chain = chains.BareChain()
    lines = [chain.line(chains.draft(n)) for n in range(3)]

    entries = [json.loads(line) for line in lines]
    assert [entry["prev"] for entry in entries] == ["", *[entry["mac"] for entry in entries[:2]]]
    assert entries[1]["body"] == json.loads(chains.BODY)
    plain = lines[2][:-75] + b"}"
    assert hmac.digest(chains.KEY, plain, "sha256").hex() == entries[2]["mac"]


def test_the_bare_group_lands_everything_before_it_tells(tmp_path: Path) -> None:
    path = tmp_path / "bare.jsonl"

    async def land() -> int:
        group = chains.InGroups(path, asyncio.get_running_loop())
        await asyncio.gather(*[group.commit(chains.draft(n)) for n in range(20)])
        lines = len(path.read_bytes().splitlines())
        group.close()
        return lines

    assert asyncio.run(land()) == 20


@pytest.mark.parametrize("bodies", [False, True])
def test_both_verifiers_find_an_entry_that_was_edited(tmp_path: Path, bodies: bool) -> None:
    path = chains.make(tmp_path / "audit.jsonl", 70, bodies)
    assert chains.bare_verify(path) > 0
    assert audit.ours(path) > 0

    path.write_bytes(path.read_bytes().replace(b'"n":41,', b'"n":42,', 1))

    with pytest.raises(ValueError, match="the mac of 40"):
        chains.bare_verify(path)
    with pytest.raises(AssertionError, match="edited"):
        audit.ours(path)


def test_the_body_of_the_bench_is_json() -> None:
    assert msgspec.json.decode(chains.BODY)["kind"] == "tool_returned"
