"""A dry run counts, tries a few questions, refuses what a run refuses, and leaves nothing behind."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.evaluation.plan import Part, Plan, render
from tests.support.refusals import refused

FLAGS = ["run", "--tasks", "relay_one", "--limit", "6", "--channels", "receiver,c2c"]


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path], list[list[str]]]:
    """What a dry run prints and leaves, and the folders of which lm-eval built an index."""
    from lm_eval.tasks._index import TaskIndex

    folder, indexed, said = tmp_path_factory.mktemp("dry"), [], io.StringIO()
    build = TaskIndex.build

    def noting(paths: Iterable[Path], **more: Any) -> Any:
        listed = list(paths)
        indexed.append([str(path) for path in listed])
        return build(listed, **more)

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.chdir(folder)
        patch.setattr(TaskIndex, "build", staticmethod(noting))
        patch.setattr("harness.evaluation.plan.SECONDS", 0.0)
        assert cli.main([*FLAGS, "--dry-run"]) == 0
    return said.getvalue(), list(folder.rglob("*")), indexed


def test_a_dry_run_counts_and_writes_nothing(dry: tuple[str, list[Path], list[list[str]]]) -> None:
    said, left, _ = dry
    assert left == []
    assert "Questions: 6 (6 of relay_one)." in said
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in said.splitlines() if "|" in line]
    assert ["receiver", "6"] in rows
    assert ["c2c and 2 controls", "18"] in rows
    assert max(map(len, said.splitlines())) <= 80


def test_our_own_tasks_build_no_index_of_lm_evals(dry: tuple[str, list[Path], list[list[str]]]) -> None:
    import lm_eval

    theirs = Path(lm_eval.__file__).parent
    assert not [path for paths in dry[2] for path in paths if Path(path).is_relative_to(theirs)]


def test_what_a_run_refuses_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert "already holds a run" in refused(capsys, [*FLAGS, "--dry_run", "--output_path", str(tmp_path)])
    assert "Did you mean" in refused(capsys, ["run", "--dry-run", "--tasks", "relay_oe"])


def test_the_estimate_is_the_sum_of_its_parts() -> None:
    own = {"arms": 2, "answers": 2000, "prompt_tokens": 100.0, "answer_s": 0.01, "alone_s": 0.1}
    found = Plan({"t": 1000}, [Part("c2c", payload_bytes=5e3, means=100, **own)], 3000, 40, 5.0, 16)
    assert found.seconds == pytest.approx(5 + 21 + 4)
    said = " ".join(render(found).split())
    assert "1,000 questions find differences from" in said
    for text in ("~200,000", "<=6,000", "~5 MB", "About 30 s", "from 16 questions"):
        assert text in said
