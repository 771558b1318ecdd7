"""A dry run counts, tries a few questions, refuses what a run refuses, and leaves nothing behind."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cli
from harness.config import RunConfig
from harness.evaluation import plan as plan_module
from harness.evaluation.plan import Part, Plan, render
from harness.evaluation.run import _asked_whole
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
    found = Plan({"t": 1000}, [Part("c2c", payload_bytes=5e3, means=100, **own)], 3000, 40, 5.0, 16, 9000)
    assert found.seconds == pytest.approx(5 + 21 + 4)
    said = " ".join(render(found).split())
    assert "1,000 questions find differences from" in said
    for text in ("~200,000", "<=6,000", "~5 MB", "About 30 s", "from 16 questions"):
        assert text in said
    assert "there are only" not in said


def test_what_is_nothing_is_left_out_and_a_small_set_says_so() -> None:
    own = {"arms": 1, "answers": 40, "prompt_tokens": 100.0, "answer_s": 0.01, "alone_s": None}
    said = " ".join(
        render(Plan({"t": 40}, [Part("receiver", payload_bytes=0, means=0, **own)], 0, 0, 5, 8, 500)).split()
    )
    assert [word in said for word in ("decoded", "crosses", "timed questions")] == [False, False, False]
    assert "3 points 1,800, 5 points 658, 10 points 168; there are only 500." in said


@pytest.mark.parametrize("times", [[9.0, 300.0, 1.0], [9.0, 1.0, 300.0], [9.0, 1.0, 1.2, 1.0, 0.9]])
def test_neither_the_first_answers_nor_a_pause_of_the_machine_make_the_estimate(
    monkeypatch: pytest.MonkeyPatch, times: list[float]
) -> None:
    left = iter(times)
    monkeypatch.setattr(plan_module, "_answered", lambda group, items, config: (list(items), next(left)))
    group: Any = None
    items: Any = list(range(200))
    samples, answer_s, tried = plan_module._batches(group, items, RunConfig(batch_size=5), sum(times[1:]), 200)
    assert (answer_s, tried, len(samples)) == (0.2, 5 * len(times[1:]), 5 * len(times[1:]))


def test_trying_takes_a_fair_share_of_the_run_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def answered(group: Any, items: Any, config: Any) -> tuple[list[Any], float]:
        sizes.append(len(items))
        return list(items), float(len(items))

    monkeypatch.setattr(plan_module, "_answered", answered)
    group: Any = None
    items: Any = list(range(40))
    plan_module._batches(group, items, RunConfig(batch_size=8), 1000.0, 40)
    assert sum(sizes) <= 1 + 40 / 4


def test_a_limit_above_what_a_task_has_is_one_line() -> None:
    sizes = {"relay_one": 432, "big": 10_000}
    benchmark: Any = SimpleNamespace(sizes=sizes)
    (line,) = _asked_whole(RunConfig(limit=1000), benchmark)
    assert line == "--limit is 1,000, but relay_one has 432; all are asked."
    assert _asked_whole(RunConfig(limit=432), benchmark) == []
    assert _asked_whole(RunConfig(), benchmark) == []


def test_where_every_tried_question_fails_the_first_error_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*FLAGS, "--max_length", "3", "--dry_run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Every question that was tried failed through receiver, c2c, so that a run would stop; the first" in said
    assert "said: receiver: PromptTooLong: " in said
    assert "Nothing would be refused" not in said
