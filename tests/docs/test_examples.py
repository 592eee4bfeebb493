"""Every Python example in README.md and docs/ runs, and so does every command marked with `<!-- run -->`.

The blocks of a page run in order in one namespace, in a process of their own that starts in an empty folder.
`await` may stand at top level. A block opts out with `<!-- not run: reason -->` on the line before it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN_FILE = Path(__file__).with_name("run_file.py")
SECONDS = 120

# A page must run without a model's account and must not reach one by accident.
SERVERS = {"DATABASE_URL": "database", "REDIS_URL": "redis_url", "TEMPORAL_ADDRESS": "temporal"}
"""What a page finds in its environment if it names it: real servers, see tests/conftest.py."""
TAKEN_AWAY = {"ANTHROPIC_API_KEY", "OPENAI_API_KEY", "SHIPWORTHY_ALLOW_MODEL_CALLS"}


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(page: Path, folder: Path, **given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, RUN_FILE, page],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in TAKEN_AWAY} | given,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def ran_to_its_end(done: subprocess.CompletedProcess[str]) -> bool:
    """A page whose process ends early, with whatever status, did not show what it says."""
    return done.returncode == 0 and done.stdout.endswith("blocks ran\n")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text()
    given = {name: request.getfixturevalue(fixture) for name, fixture in SERVERS.items() if name in text}
    done = run(page, tmp_path, **given)

    assert ran_to_its_end(done), f"\n{done.stderr}{done.stdout}"


# --- the mutants: what this test must catch ---------------------------------------------------


def written(folder: Path, *lines: str) -> Path:
    page = folder / "page.md"
    page.write_text("\n".join(lines) + "\n")
    return page


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        pytest.param(
            ["# A page", "```python", "one = 1", "one / 0", "```"], "page.md:4: ZeroDiv", id="raises"
        ),
        pytest.param(["```python", "def f(:", "```"], "page.md:2: SyntaxError", id="does not parse"),
        pytest.param(
            ["- a list", "", "  ```python", "  missing", "  ```"], "page.md:4: NameError", id="indented"
        ),
        pytest.param(
            ["```python", "async def f():", "    raise OSError('no')", "await f()", "```"],
            "page.md:4: OSError: no",
            id="awaits a failure",
        ),
        pytest.param(["```py", "missing", "```"], "page.md:2: NameError", id="short language name"),
        pytest.param(["```python", "raise SystemExit(0)", "```"], "page.md:2: SystemExit", id="exits"),
        pytest.param(["```python", "import os; os._exit(0)", "```"], "", id="dies"),
        pytest.param(
            ["<!-- not run -->", "```python", "missing", "```"], "page.md:2: say why", id="no reason"
        ),
        pytest.param(
            ["<!-- Run -->", "```console", "$ shipworthy", "```"], "page.md:2: commands", id="marker"
        ),
        pytest.param(
            ["<!-- run -->", "```console", "$ rm -rf .", "```"],
            "page.md:3: CommandFailed: only `shipworthy`",
            id="other command",
        ),
        pytest.param(
            ["<!-- run -->", "```console", "$ shipworthy no-such-command", "```"],
            "page.md:3: CommandFailed: exit status 2",
            id="command fails",
        ),
    ],
)
def test_a_page_that_does_not_run_fails_and_says_where(lines: list[str], says: str, tmp_path: Path) -> None:
    done = run(written(tmp_path, *lines), tmp_path)

    assert not ran_to_its_end(done)
    assert says in done.stderr


def test_blocks_share_a_namespace_and_an_event_loop(tmp_path: Path) -> None:
    page = written(
        tmp_path,
        "```python",
        "import asyncio",
        "future = await asyncio.sleep(0, asyncio.get_running_loop().create_future())",
        "```",
        "```python",
        "def between():",
        '    return asyncio.run(asyncio.sleep(0, "outside a loop"))',
        "assert between() == 'outside a loop'  # no await here, so no loop is running",
        "```",
        "```python",
        "assert future.get_loop() is asyncio.get_running_loop()",
        "future.set_result('the same loop')",
        "print(await future)",
        "```",
    )

    done = run(page, tmp_path)

    assert done.stdout == "the same loop\n3 blocks ran\n", done.stderr


def test_a_block_with_a_reason_and_an_unmarked_command_are_not_run(tmp_path: Path) -> None:
    page = written(
        tmp_path,
        "<!-- not run: needs an account -->",
        "```python",
        "missing",
        "```",
        "```console",
        "$ shipworthy no-such-command",
        "```",
    )

    assert run(page, tmp_path).stdout == "0 blocks ran\n"
