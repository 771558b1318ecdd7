"""Random pairs and the questions that they read."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from harness.bench.model_shapes import FuserWidths, ModelShape, read_pair
from harness.bench.synthetic_pair import Pair, build_pair, questions, tokenizer
from harness.errors import UserError
from harness.inference.types import CallStats
from harness.models.chat import continuation_ids, encode

CPU = torch.device("cpu")


def build(text: str, dtype: torch.dtype = torch.float32) -> Pair:
    return build_pair(read_pair(text), dtype, CPU, FuserWidths(16, 16))


def test_words_are_their_own_ids() -> None:
    made = tokenizer(100)
    assert made("7 99 100 x", add_special_tokens=False)["input_ids"] == [7, 99, 0, 0]
    assert made.decode([10, 42]) == "10 42"


def test_prompts_have_the_asked_length_and_options_theirs() -> None:
    pair = build("tiny")
    asked = questions(pair, 3, 21, (2, 4), random.Random(0))
    assert [len(encode(pair.receiver, q.receiver).ids) for q in asked] == [21] * 3
    assert [len(continuation_ids(pair.receiver, q.receiver, c)) for q in asked for c in q.choices] == [4] * 6
    assert len({q.question for q in asked}) == 3


def test_a_prompt_shorter_than_the_template_is_refused() -> None:
    with pytest.raises(UserError, match="more than 8"):
        questions(build("tiny"), 1, 8, (0, 0), random.Random(0))


def test_all_gates_are_open_and_one_family_needs_no_alignment() -> None:
    pair = build("tiny")
    assert len(pair.fuser.open_entries()) == 2 * pair.receiver.n_layers
    assert pair.c2c().planner.strategy == "off"


def test_models_of_two_families_are_aligned_and_only_content_is_fused() -> None:
    pair = build("tiny-a+tiny-c")
    channel, asked = pair.c2c(), questions(pair, 1, 20, (0, 0), random.Random(0))
    assert channel.planner.strategy == "first"
    assert channel.planner.plan(asked[0].receiver).fused == ((3, 15),)
    with torch.inference_mode():
        context = channel.receive(asked, channel.send(asked, CallStats()), CallStats())
    assert context.logits.isfinite().all()


def test_dtype_reaches_models_and_fuser() -> None:
    pair = build("tiny", torch.bfloat16)
    assert {pair.receiver.dtype, pair.sharer.dtype, pair.fuser.gate_logit.dtype} == {torch.bfloat16}


def test_no_model_stops_by_itself() -> None:
    pair = build("tiny")
    assert not pair.receiver.stop_ids
    assert not pair.sharer.stop_ids


def test_a_folder_that_cannot_be_built_is_refused(tmp_path: pytest.TempPathFactory) -> None:
    broken = ModelShape("here", folder=tmp_path)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        build_pair((broken, replace(broken)), torch.float32, CPU, FuserWidths(8, 8))
