"""A task of one's own with two views through the command line, through lm-eval and through an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from harness import cli
from harness.errors import UserError
from harness.lm_eval_bridge.model import FusedLM, SingleLM, TextLM
from tests.support.tiny import GOLDEN
from tests.views.build import FACTS, write_task

PAIR = {name: str(GOLDEN / "same_tokenizer" / name) for name in ("receiver", "sharer", "fuser")}
CHANNELS = "receiver,sharer,ensemble,t2t:max_new_tokens=4,c2c,routed"


def ran(folder: Path, facts: tuple[str, ...] = FACTS) -> list[dict[str, Any]]:
    task = write_task(folder, facts=facts)
    flags = [f"--{name}={path}" for name, path in PAIR.items()]
    flags += [f"--channels={CHANNELS}", "--controls=mismatched,mean,closed", f"--tasks={task}", "--latency_warm_up=1"]
    flags += ["--calibration_samples=2", "--latency_samples=1", f"--output_path={folder / 'out'}", "--no-progress"]
    assert cli.main(["run", *flags]) == 0
    return [json.loads(line) for line in (folder / "out" / "samples.jsonl").read_text().splitlines()]


def test_every_channel_answers_and_the_record_names_both_prompts(tmp_path: Path) -> None:
    samples = ran(tmp_path)
    arms = {(s["channel"], s["control"]) for s in samples}
    assert {channel for channel, _ in arms} >= set(CHANNELS.split(","))
    assert {("c2c", "mean"), ("c2c", "closed"), ("c2c", "mismatched"), ("t2t:max_new_tokens=4", "mismatched")} <= arms
    assert not [s["error"] for s in samples if s["error"]]
    by_arm = {(s["channel"], s["control"], s["doc_id"]): s["loglikelihoods"] for s in samples}
    assert all(by_arm["c2c", "closed", f"q{n}"] == by_arm["receiver", "", f"q{n}"] for n in range(len(FACTS)))
    asked = [json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines()]
    for fact, row in zip(FACTS, asked, strict=True):
        assert fact in row["sharer_prompt"]
        assert fact not in row["prompt"]
        assert len(set(row["prompt_sha256"].values())) == 2


@pytest.mark.parametrize("model", ["single", "t2t", "c2c"])
def test_lm_eval_s_tasks_say_who_sees_what(tmp_path: Path, model: str) -> None:
    kinds: dict[str, Any] = {
        "single": lambda: SingleLM(receiver=PAIR["receiver"], device="cpu"),
        "t2t": lambda: TextLM(receiver=PAIR["receiver"], sharer=PAIR["sharer"], max_new_tokens=4, device="cpu"),
        "c2c": lambda: FusedLM(**PAIR, device="cpu"),
    }
    scores = []
    for number, facts in enumerate([FACTS, ("coal", *FACTS[1:])]):
        folder = tmp_path / str(number)
        write_task(folder, facts=facts)
        found = simple_evaluate(
            model=kinds[model](),
            tasks=["boxes"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=True,
        )
        samples = sorted(found["samples"]["boxes"], key=lambda s: s["doc_id"])
        scores.append([[float(value) for value, _ in s["filtered_resps"]] for s in samples])
    assert scores[0][1:] == [pytest.approx(row, abs=1e-4) for row in scores[1][1:]]
    if model != "t2t":  # what a random sharer writes of a fact is anything
        assert (scores[0][0] != pytest.approx(scores[1][0], abs=1e-4)) == (model == "c2c")


def test_lm_eval_s_cache_knows_one_prompt_alone(tmp_path: Path) -> None:
    write_task(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with pytest.raises(UserError, match="knows the receiver's prompt alone; leave it out"):
        simple_evaluate(
            model=SingleLM(receiver=PAIR["receiver"], device="cpu"),
            tasks=["boxes"],
            task_manager=manager,
            use_cache=str(tmp_path / "cache"),
            bootstrap_iters=0,
        )


def test_t2t_is_refused_by_name_where_nobody_would_read_the_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = write_task(tmp_path, views="receiver_hides: options")
    flags = ["--receiver", PAIR["receiver"], "--sharer", PAIR["sharer"], "--channels=receiver,t2t", "--controls="]
    assert cli.main(["run", *flags, f"--tasks={task}", f"--output_path={tmp_path / 'out'}"]) == 2
    assert "Channel t2t does not apply: a task hides the options from the receiver" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_t2t_without_a_bare_question_is_refused_before_anything_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = write_task(tmp_path)
    data = tmp_path / "boxes.jsonl"
    data.write_text(data.read_text().replace('"question":', '"asked":'))
    flags = ["--receiver", PAIR["receiver"], "--sharer", PAIR["sharer"], "--channels=receiver,t2t", "--controls="]
    assert cli.main(["run", *flags, f"--tasks={task}", f"--output_path={tmp_path / 'out'}"]) == 2
    assert "Channel t2t does not apply: it needs the bare question of every row" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
