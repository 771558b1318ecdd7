"""Commands and Python lines of every page run as they stand; the flags of marked ones are read."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from tests.support.pages import MARKS, PROGRAMS, ROOT, Block, blocks, harness_arguments, pages, shell_blocks

# Their code is run by tests of its own, since it registers what must not stay, or prints what stands on the page.
OWN_TESTS = {"add_a_channel.md", "add_a_control.md", "add_a_fuser.md", "python.md"}
# A page that goes on with what another one has run.
CONTINUES = {"submit.md": "quick_start.md"}
EXAMPLE = ROOT / "examples" / "paper_repo"


def runs_here(block: Block) -> bool:
    if block.language == "python":
        return block.page.name not in OWN_TESTS
    return block.language in ("sh", "bash") and not block.mark


def here(page: Path) -> list[Block]:
    """Returns what is run of a page, and behind it of those that go on with it."""
    following = [one for one in pages() if CONTINUES.get(one.name) == page.name]
    return [block for one in (page, *following) for block in blocks(one) if runs_here(block)]


RUN = [page for page in pages() if page.parent != EXAMPLE and page.name not in CONTINUES and here(page)]
MARKED = [block for block in shell_blocks() if block.mark]
SLOW = [block for block in MARKED if block.mark == "slow"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that looks like the checkout; what is written stays in it."""
    for name in ("run_eval.py", "harness", "tasks", "docs", "leaderboards", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def execute(words: list[str]) -> None:
    program = Path(words[0]).name
    if program == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif program in PROGRAMS or (program == "python" and Path(words[1]).name in PROGRAMS):
        for arguments in harness_arguments(words):
            assert main(arguments) == 0, words
    else:
        pytest.fail(f"{' '.join(words)}: the harness and make are run; mark the block with its need")


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_says_runs_from_top_to_bottom(page: Path, checkout: Path) -> None:
    names: dict[str, Any] = {}
    for block in here(page):
        if block.language == "python":
            exec(block.text, names)
            continue
        for words in block.commands():
            execute(words)


def test_a_block_that_is_not_run_says_why() -> None:
    assert {block.mark for block in MARKED} <= MARKS
    unread = [f"{page.name}: {line}" for page in pages() for line in page.read_text().splitlines() if odd(line)]
    assert unread == []


def odd(line: str) -> bool:
    return line.startswith("```") and len(line.split()) > 1 and (line.split()[1] not in MARKS or len(line.split()) > 2)


class Read(BaseException):
    """The flags are known."""


@pytest.mark.parametrize("block", MARKED, ids=lambda block: block.name)
def test_flags_of_what_is_not_run_are_known(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    original = argparse.ArgumentParser.parse_args

    def parsed(parser: argparse.ArgumentParser, *given: Any) -> None:
        original(parser, *given)
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    for words in block.commands():
        for arguments in harness_arguments(words):
            with pytest.raises(Read):
                assert main(arguments) == 0, arguments


def shell(text: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    """Runs a block with bash, with the programs that it names in place of installed ones."""
    folder = checkout / ".venv" / "bin"
    folder.mkdir(parents=True)
    called = {"python": "", "torchrun": "-m torch.distributed.run", "c2c-harness": str(ROOT / "run_eval.py")}
    for name, arguments in called.items():
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_a_block_is_run_by_bash_as_slow_ones_are(checkout: Path) -> None:
    done = shell("python run_eval.py \\\n  --version\nc2c-harness --version  # twice\n", checkout)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.splitlines())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("block", SLOW, ids=lambda block: block.name)
def test_slow_blocks_run(block: Block, checkout: Path) -> None:
    done = shell(block.text, checkout)
    assert done.returncode == 0, done.stdout + done.stderr
