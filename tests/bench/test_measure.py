"""What is timed: turns, questions, memory, and that arms do what they are named for."""

from __future__ import annotations

import pytest
import torch

from harness.bench.candidates import Arm, Reading, Task, make_arms
from harness.bench.measure import Repeats, measure, rotated_order, summarize
from harness.bench.model_shapes import FuserWidths, read_pair
from harness.bench.results import Cell
from harness.bench.roofline import Speeds
from harness.bench.synthetic_pair import Pair, build_pair
from harness.inference.memory import with_peak
from harness.inference.types import Query

CPU = torch.device("cpu")
CELL = Cell("float32", 20, 2, 3)
STAGES = {
    "receiver": ["receiver_prefill", "receiver_decode"],
    "sharer": ["sharer_prefill", "sharer_decode"],
    "t2t": ["sharer_prefill", "sharer_decode", "message_transfer", "receiver_prefill", "receiver_decode"],
    "c2c": ["sharer_prefill", "message_transfer", "receiver_prefill", "fusion", "receiver_decode"],
    "transformers": [],
}


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.manual_seed(0)
    return build_pair(read_pair("tiny"), torch.float32, CPU, FuserWidths(8, 8))


def test_every_round_starts_with_another_arm() -> None:
    assert [rotated_order(["a", "b", "c"], n)[0] for n in range(4)] == ["a", "b", "c", "a"]
    assert sorted(rotated_order(["a", "b", "c"], 2)) == ["a", "b", "c"]


def test_rounds_take_turns_and_never_repeat_a_question(pair: Pair) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []

    def spy(name: str) -> Arm:
        def arm(queries: list[Query], task: Task) -> Reading:
            seen.append((name, tuple(q.question for q in queries)))
            return Reading(1.0)

        return arm

    found = measure(pair, {"a": spy("a"), "b": spy("b")}, CELL, (0, 0), Repeats(timed=2, warm_up=1))
    assert [name for name, _ in seen] == ["a", "b", "a", "b", "b", "a"]
    assert len({question for _, asked in seen for question in asked}) == 12
    assert [r.total.raw_s for r in found.results] == [(1.0, 1.0)] * 2


@pytest.mark.parametrize("arm", STAGES)
def test_an_arm_times_its_stages_and_knows_their_floors(pair: Pair, arm: str) -> None:
    (result,) = measure(pair, make_arms(pair, [arm], 4), CELL, (0, 0), Repeats(1, 1)).results
    assert list(result.stages) == STAGES[arm]
    assert result.tokens_out == 6
    assert result.total.floor_s is not None
    assert result.total.floor_s > 0
    assert sum(series.raw_s[0] for series in result.stages.values()) <= result.total.raw_s[0]


def test_cells_of_scoring_run_lm_eval_and_skip_generation(pair: Pair) -> None:
    arms = make_arms(pair, ["transformers", "receiver", "c2c", "lm_eval"], 4)
    found = measure(pair, arms, Cell("float32", 20, 2, 0), (3, 4), Repeats(1, 0)).results
    assert [r.arm for r in found] == ["receiver", "c2c", "lm_eval"]
    assert [list(r.stages)[-1:] for r in found] == [["scoring"], ["scoring"], []]
    assert all(r.ttft is None and r.peak_bytes is None for r in found)


def test_the_fused_prefill_is_charged_stretch_by_stretch() -> None:
    pair = build_pair(read_pair("tiny-a+tiny-c"), torch.float32, CPU, FuserWidths(8, 8))
    (result,) = measure(pair, make_arms(pair, ["c2c"], 4), CELL, (0, 0), Repeats(1, 0)).results
    assert list(result.stages) == STAGES["c2c"]
    assert (
        result.payload_bytes == 12 * 2 * pair.receiver.n_layers * 2 * 8 * 4
    )  # tokens, kinds, layers, heads, width, float


def test_against_the_baseline_by_medians(pair: Pair) -> None:
    arms: dict[str, Arm] = {"transformers": lambda *_: Reading(2.0), "c2c": lambda *_: Reading(3.0)}
    found = measure(pair, arms, CELL, (0, 0), Repeats(1, 0)).results
    assert [r.times_baseline for r in found] == [1.0, 1.5]


def test_a_stage_without_a_floor_shows_none() -> None:
    result = summarize("x", CELL, [Reading(1.0, stages_s={"message_transfer": 0.5})], Speeds(1.0, 1.0), None)
    assert result.stages["message_transfer"].ratio is None


def test_peak_memory_is_what_the_call_held() -> None:
    size = 64 * 2**20
    result, peak = with_peak(CPU, lambda: float(torch.ones(size // 4).amax()))
    assert result == 1.0
    assert peak is None or 0.9 * size < peak < 2 * size
