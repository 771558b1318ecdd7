"""The command: what it writes, what it refuses, what it imports."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.bench.main import add_arguments, main
from harness.bench.results import Bench, Cell, Result, Series
from harness.bench.tables import markdown
from harness.errors import UserError


def run(*flags: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args(["--shapes", "tiny", "--fuser_hidden", "8", *flags]))


def test_writes_json_a_table_and_a_plot(tmp_path: Path) -> None:
    flags = [
        "--prompt_tokens",
        "12,16",
        "--batch_sizes",
        "1,2",
        "--new_tokens",
        "2",
        "--repeats",
        "2",
        "--message_tokens",
        "2",
        "--options",
        "2",
    ]
    assert run(*flags, "--output", str(tmp_path)) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert len(found["results"]) == 4 * (4 + 3)
    assert all(len(r["total"]["raw_s"]) == 2 for r in found["results"])
    assert found["speeds"]["float32"]["flops_per_s"] > 0
    assert "| c2c" in (tmp_path / "bench.md").read_text()
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--arms", "c2"], "Did you mean 'c2c'"),
        (["--arms", "c2c,c2c"], "each only once"),
        (["--prompt_tokens", "0"], "above zero"),
        (["--batch_sizes", "1,x"], "above zero"),
        (["--dtypes", "bf16"], "Unknown dtype"),
        (["--repeats", "0"], "at least 1"),
        (["--prompt_tokens", "5"], "more than 8"),
        (["--device", "tpu9"], "unknown"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(flags: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        run("--output", str(tmp_path), *flags)


def test_an_output_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        run("--output", str(tmp_path / "file" / "below"))


def test_declaring_the_flags_imports_nothing_heavy() -> None:
    code = "import sys, harness.bench.main; sys.exit(bool({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_was_not_measured_shows_as_a_dash() -> None:
    result = Result("c2c", Cell("float32", 8, 1, 0), Series((2.0, 4.0), 1.5))
    page = markdown(Bench({}, {}, (result,)))
    row = next(line for line in page.splitlines() if line.startswith("| c2c"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        *("c2c", "3.0000", "3.8000", "1.5000", "2.00"),
        *("-", "-", "0.333", "-", "-", "-", "0"),
    ]
