"""The pages that people read, and the blocks of commands and code on them.

A block in `sh` is run by a test, or says behind its language what it needs: `gpu`, `hub` (the model hub or a package
index), or `slow` (minutes; run with `-m slow`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARKS = frozenset({"gpu", "hub", "slow"})
PROGRAMS = ("run_eval.py", "c2c-harness")
_FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OPERATORS = {"&", "&&", "||", "|", ";", "then", "do", "done"}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Returns the words of each line, with continued lines as one."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def pages() -> list[Path]:
    patterns = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "tasks/*/README.md", "examples/*/README.md")
    return [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2] or "", found[3])
        for found in _FENCE.finditer(text)
    ]


def texts(page: Path, language: str) -> list[str]:
    return [block.text for block in blocks(page) if block.language == language]


def shell_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks(page) if block.language in ("sh", "bash")]


def harness_arguments(words: list[str]) -> Iterator[list[str]]:
    """Yields what stands behind each call of the harness in a line, up to the next operator of the shell."""
    for place, word in enumerate(words):
        if Path(word).name in PROGRAMS:
            rest = words[place + 1 :]
            ends = [i for i, one in enumerate(rest) if one in _OPERATORS or one.endswith(";")]
            given = rest[: ends[0]] if ends else rest
            if given and not given[0].startswith("$"):
                yield given
