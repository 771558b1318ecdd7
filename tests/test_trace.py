"""How long the way is that one answer, its record, its row on a board and one training step take through the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.channels import engine
from harness.channels.c2c import CacheToCache, Link
from harness.config import build
from harness.evaluation import accuracy_pass
from harness.evaluation.run import run
from harness.inference.batching import Budget
from harness.inference.types import CallStats, Request
from harness.leaderboard.rows import board_frame
from harness.paths import PAIR
from harness.records.folder import RunFolder
from harness.training.loop import Loop
from harness.training.main import train
from tests.support.tiny import random_fuser, random_lm
from tests.support.tracing import Trace, traced
from tests.support.training_runs import chats_on_disk, pair_on_disk, recipe
from tests.support.work import query


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    """One question of the embedded pair through C2C."""
    values = {
        **{"receiver": str(PAIR / "receiver"), "sharers": [str(PAIR / "sharer")], "fusers": [str(PAIR / "fuser")]},
        **{"tasks": ["relay_one"], "channels": ["c2c"], "controls": [], "limit": 1, "device": "cpu"},
        **{"output_path": str(tmp_path_factory.mktemp("trace") / "run"), "latency_samples": 0, "progress": False},
    }
    stretches = {
        "answer": engine.run,
        "score.sample": accuracy_pass.to_sample,
        "score.record": RunFolder.add_samples,
        "row": board_frame,
    }
    with traced(stretches) as traces:
        run(build(values))
    return traces


@pytest.mark.parametrize(("stretch", "files"), [("answer", 14), ("score", 14), ("row", 12)])
def test_one_answer_passes_few_files(way: dict[str, Trace], stretch: str, files: int) -> None:
    assert 0 < len(way[stretch].functions) <= files, str(way[stretch])


def test_one_answer_passes_few_functions() -> None:
    """The second answer, since the first fills what is kept for a whole run."""
    receiver, sharer = random_lm("qwen3", seed=1), random_lm("llama", seed=2)
    channel = CacheToCache(receiver, (Link(sharer, random_fuser(receiver, sharer)),))
    for text in ("Hi there", "Why is it blue?"):
        request = Request(query(text), max_new_tokens=4)
        with traced({"answer": engine.run}) as traces:
            list(engine.run(channel, [engine.Arm(channel)], [request], Budget(), [CallStats()]))
    assert 0 < sum(map(len, traces["answer"].functions.values())) <= 120, str(traces["answer"])


def test_one_training_step_passes_few_files(tmp_path: Path) -> None:
    pair_on_disk(tmp_path)
    chats_on_disk(tmp_path)
    with traced({"step": Loop.step}) as traces:
        train(recipe(tmp_path, tmp_path / "out", steps=1))
    assert 0 < len(traces["step"].functions) <= 14, str(traces["step"])
