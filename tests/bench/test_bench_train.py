"""The bench of training: its floor against operations that torch counts, and what it times. Counts, never times."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.bench.candidates import Calls
from harness.bench.main import add_arguments, main
from harness.bench.measure import Repeats
from harness.bench.model_shapes import FuserWidths, read_pair
from harness.bench.results import TrainCell
from harness.bench.roofline import Cost, model_cost
from harness.bench.synthetic_pair import Models, build_models
from harness.bench.training import TrainArm, make_train_arms, measure_training, step_calls
from harness.errors import UserError
from harness.models.chat import Conversation, Turn
from harness.training.dataloader import Lesson, lay_out_lesson
from harness.training.dataset import Example

CPU = torch.device("cpu")
WIDTHS = FuserWidths(16, 24, 4)
CELL = TrainCell("float32", prompt_tokens=20, response_tokens=6, rows=3)
ALL = ("plain", "checkpointing", "kept", "kept+checkpointing")


def models(text: str = "tiny") -> Models:
    torch.manual_seed(0)
    return build_models(read_pair(text), torch.float32, CPU)


def arms(names: tuple[str, ...] = ("plain",), cell: TrainCell = CELL, text: str = "tiny") -> dict[str, TrainArm]:
    return make_train_arms(models(text), names, cell, WIDTHS, seed=0)


def flops(calls: Calls) -> float:
    return sum(cost.flops for costs in calls.values() for cost in costs)


def counted(call: object, attention: bool = False) -> int:
    """Operations of products; of attention only where it is made of plain ones."""
    with FlopCounterMode(display=False) as counter:
        call()
    by_name = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    return sum(n for op, n in by_name.items() if attention or "attention" not in op)


def tail(arm: TrainArm, tokens: int) -> int:
    """The end of the last layer, which a training's prompt pass runs though nothing needs it."""
    cost = model_cost(arm.loop.session.models[0].config, 4)
    return 2 * tokens * cost.tail_weights


def queries(arm: TrainArm, tokens: int) -> int:
    """Those of the sharer's last layer, which are made before its K and V are stored."""
    config = arm.loop.session.models[1].config
    return int(2 * tokens * config.hidden_size * model_cost(config, 4).attention)


def seen(new: int, past: int = 0) -> float:
    return new * past + new * (new + 1) / 2


def attended(arm: TrainArm, kept: bool) -> float:
    """Attention of one row in `CELL`, by hand: two products ahead, four back, of the lowest layer three to the past."""
    receiver, sharer = (model_cost(lm.config, 4) for lm in arm.loop.session.models)
    response = 2 * receiver.layers * seen(6, 19) + 4 * (receiver.layers - 1) * seen(6, 19) + 3 * 6 * 19
    prompts = 0.0 if kept else 2 * (receiver.layers - 1) * seen(19) * receiver.attention
    theirs = 0.0 if kept else 2 * (sharer.layers - 1) * seen(19) * sharer.attention
    return 2 * (response * receiver.attention + prompts + theirs)


@pytest.mark.parametrize(("name", "micro_batches"), [("plain", 1), ("plain", 2), ("kept", 1)])
def test_the_floor_counts_the_products_that_torch_counts_in_a_whole_step(name: str, micro_batches: int) -> None:
    arm = arms((name,), TrainCell("float32", 20, 6, rows=3, micro_batches=micro_batches))[name]
    arm.settle()
    rows, kept = 3 * micro_batches, name == "kept"
    idle = 0 if kept else tail(arm, rows * 19) + queries(arm, rows * 19)
    assert flops(arm.calls) - rows * attended(arm, kept) == counted(arm.step) - idle


def test_attention_back_to_the_past_is_what_plain_products_of_it_count() -> None:
    alone = TrainCell("float32", 20, 6, rows=1)
    plain = arms(("plain",), alone)["plain"]
    eager = arms(("plain",), alone)["plain"]
    for lm in eager.loop.session.models:
        lm.model.set_attn_implementation("eager")
    receiver, sharer = (model_cost(lm.config, 4) for lm in eager.loop.session.models)
    found = counted(eager.step) - counted(plain.step)
    # Eager attention does not skip what the mask hides, nor what the last layer's end needs in a prompt pass.
    prompts = 2 * receiver.layers * 19 * 19 * receiver.attention + 2 * (sharer.layers - 1) * 19 * 19 * sharer.attention
    response = (6 * receiver.layers - 1) * 6 * 25 * receiver.attention
    assert found == 2 * (prompts + response)


def chat(*texts: str) -> Example:
    turns = tuple(Turn("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(texts))
    return Example(Conversation(turns[:-1]), turns[-1].content)


def test_several_stretches_are_charged_what_reaches_a_weight() -> None:
    arm = arms(text="tiny-a+tiny-c")["plain"]
    objective = arm.loop.session.objective
    channel = objective.channel
    found = lay_out_lesson(channel.planner, chat("11 12 13 14", "15 16", "17 18 19", " 20 21 22 23 24"), 500)
    assert isinstance(found, Lesson)
    assert len(found.fused) > 1
    calls = step_calls(channel, [[found]], objective, kept=False)
    receiver, sharer = (model_cost(lm.config, 4) for lm in arm.loop.session.models)
    (first, *later), end = [(a, b) for a, b in zip(found.cuts, found.cuts[1:], strict=False)], found.fused_end
    forward = 2 * (receiver.layers - 1) * seen(first[1]) * receiver.attention
    forward += 2 * (sharer.layers - 1) * seen(end) * sharer.attention
    back = 0.0
    for a, b in later:
        busy = receiver.layers - (b < found.prompt_length)
        new, all_seen = b - a, seen(b - a, a)
        forward += 2 * busy * all_seen * receiver.attention
        back += (4 * (busy - 1) * all_seen + 3 * new * a) * receiver.attention
    # Also computed, though nothing needs it: the last layer's end in calls that only fill the cache.
    idle = sum(tail(arm, b - a) for a, b in (first, *later) if b < found.prompt_length)
    spare = idle + queries(arm, end)
    assert flops(calls) - 2 * (forward + back) == counted(lambda: objective([found]).backward()) - spare


def test_bytes_are_those_counted_by_hand() -> None:
    arm = arms()["plain"]
    session = arm.loop.session
    (optimizer,), (transfer,) = arm.calls["optimizer"], arm.calls["message_transfer"]
    assert optimizer == Cost(0.0, 32.0 * sum(p.numel() for p in session.objective.parameters()))
    # K and V of the two aligned layers of the sharer, one head 12 wide, of 3 rows of 19 tokens, read and written.
    assert transfer == Cost(0.0, 2.0 * (2 * 2) * 12 * 3 * 19 * 4)
    fuser = session.objective.channel.links[0].fuser
    config, weights = fuser.config, sum(p.numel() for p in fuser.parameters())
    moved = 2 * 2 * 3 * 19 * (config.sharer_dim + 2 * config.receiver_dim)
    assert arm.calls["fuser_forward"][0].bytes_moved == 4 * (weights + moved)
    assert arm.calls["fuser_backward"][0].bytes_moved == 4 * (2 * weights + moved)


def test_half_precision_reads_and_writes_full_masters() -> None:
    arm = make_train_arms(build_models(read_pair("tiny"), torch.bfloat16, CPU), ["plain"], CELL, WIDTHS, 0)["plain"]
    fuser = arm.loop.session.objective.channel.links[0].fuser
    config, weights = fuser.config, sum(p.numel() for p in fuser.parameters())
    moved = 2 * 2 * 3 * 19 * (config.sharer_dim + 2 * config.receiver_dim)
    assert arm.calls["fuser_backward"][0].bytes_moved == 2 * moved + 4 * 2 * weights


def test_what_is_recomputed_is_not_charged_and_what_is_kept_is_not_either() -> None:
    made = arms(ALL)
    assert made["checkpointing"].calls == made["plain"].calls
    assert not {"sharer_prompt", "message_transfer"} & made["kept"].calls.keys()
    assert made["kept"].calls["receiver_prompt"] == []
    rest = ("fuser_forward", "response_forward", "response_backward", "fuser_backward", "optimizer")
    assert all(made["kept"].calls[part] == made["plain"].calls[part] for part in rest)


def test_all_arms_step_the_same_weights_to_the_same_loss() -> None:
    made = arms(ALL)
    tensors = [{id(value) for value in arm.loop.session.objective.parameters()} for arm in made.values()]
    assert all(found == tensors[0] for found in tensors)
    losses = [arm.step().loss for arm in made.values()]  # the learning rate still rises from nothing
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-4)


def test_recomputing_counts_more_products_than_keeping() -> None:
    made = arms(("plain", "checkpointing"))
    assert counted(made["checkpointing"].step) > counted(made["plain"].step)


def test_kept_prompts_are_there_before_the_first_step_and_are_read_in_every_one() -> None:
    arm = arms(("kept",))["kept"]
    arm.settle()
    store = arm.loop.batches.store
    assert store is not None
    hits = store.hits
    arm.step()
    arm.step()
    assert store.hits == hits + 2 * CELL.rows


def test_a_step_changes_the_fuser_and_no_model() -> None:
    arm = arms()["plain"]
    session = arm.loop.session
    before = [value.clone() for lm in session.models for value in lm.model.parameters()]
    fuser = [value.clone() for value in session.objective.parameters()]
    arm.settle()
    arm.step()
    after = [value for lm in session.models for value in lm.model.parameters()]
    assert all(map(torch.equal, before, after))
    assert not all(map(torch.equal, fuser, session.objective.parameters()))


def test_results_keep_raw_values_tokens_and_what_lies_there() -> None:
    made = arms(("plain", "kept"))
    found = {r.arm: r for r in measure_training(made, CELL, Repeats(timed=2, warm_up=1)).results}
    plain, kept = found["plain"], found["kept"]
    assert len(plain.total.raw_s) == len(plain.cpu_s) == len(plain.losses) == 2
    assert (plain.response_tokens, plain.prompt_tokens) == (18, 60)
    assert plain.all_tokens_per_s / plain.response_tokens_per_s == pytest.approx(78 / 18)
    assert plain.total.floor_s == pytest.approx(sum(plain.floors_s.values()))
    assert plain.times_plain == 1.0
    layers, sent = 2, 2 * 2
    assert kept.held_bytes - plain.held_bytes == 4 * 3 * 19 * (sent * 12 + 2 * layers * 2 * 8)
    session = made["plain"].loop.session
    weights = sum(p.numel() for lm in session.models for p in lm.model.parameters())
    trained = [p.numel() for p in session.objective.parameters()]
    assert plain.held_bytes == 4 * (weights + 3 * sum(trained) + len(trained))  # and AdamW's count of steps


def run(*flags: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args(["--train", "--shapes", "tiny", "--fuser_hidden", "8", *flags]))


def test_the_command_writes_json_a_table_and_a_plot(tmp_path: Path) -> None:
    short = ["--prompt_tokens", "12,16", "--response_tokens", "4", "--batch_sizes", "2", "--repeats", "2"]
    assert run(*short, "--micro_batches", "2", "--output", str(tmp_path)) == 0
    found = json.loads((tmp_path / "train.json").read_text())
    assert [r["arm"] for r in found["results"]] == ["plain", "checkpointing", "kept"] * 2
    first = found["results"][0]
    assert first["cell"] == vars(TrainCell("float32", 12, 4, 2, 2))
    assert first["tokens_of_a_step"] == {"response_tokens": 16, "prompt_tokens": 48}
    assert first["total"]["ratio_to_floor"] == pytest.approx(first["total"]["median_s"] / first["total"]["floor_s"])
    assert found["speeds"]["float32"]["bytes_per_s"] > 0
    page = (tmp_path / "train.md").read_text()
    assert "a step of 2 x 2 rows of 12 + 4 tokens" in page
    assert "| checkpointing" in page
    assert (tmp_path / "train.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--arms", "plane"], "Did you mean 'plain'"),
        (["--arms", "c2c"], "plain"),
        (["--response_tokens", "0"], "above zero"),
        (["--micro_batches", "0"], "at least 1"),
        (["--prompt_tokens", "5"], "more than 8"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(flags: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        run("--output", str(tmp_path), *flags)
