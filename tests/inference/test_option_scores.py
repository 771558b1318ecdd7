"""Option scores against a plain teacher-forced forward through transformers, all logits kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from harness.channels.interface import Channel
from harness.channels.single import Single
from harness.inference import generate
from harness.inference.batching import Budget
from harness.inference.generate import score
from harness.inference.types import CallStats, Request
from harness.models.chat import continuation_ids, encode
from harness.models.lm import LM
from tests.support.tiny import FOREIGN, KINDS, fused, shared_lm
from tests.support.work import SENTENCES, answers, query, read, written

OPTIONS = ("A", " B", " the sky and the river", "Wenn Blau 🙂", " C")


@torch.inference_mode()
def teacher_forced(lm: LM, prompt: Sequence[int], option: Sequence[int]) -> tuple[float, bool]:
    """Loglikelihood and greediness of `option` from one forward over everything, all logits kept."""
    logits = lm.model(torch.tensor([[*prompt, *option]])).logits[0].float()
    steps = logits[len(prompt) - 1 : -1].log_softmax(-1)
    wanted = torch.tensor(option)
    total = steps.gather(-1, wanted[:, None]).sum()
    return float(total), bool((steps.argmax(-1) == wanted).all())


@pytest.mark.usefixtures("both_attentions")
@pytest.mark.parametrize("kind", KINDS)
def test_options_equal_a_teacher_forced_forward(kind: str) -> None:
    lm = shared_lm(kind)
    requests = [Request(query(text, prefix="So"), options=OPTIONS[i:]) for i, text in enumerate(SENTENCES)]
    for request, answer in zip(requests, answers(Single(lm), requests), strict=True):
        assert answer.fault is None, answer.fault
        assert len(answer.scored) == len(request.options)
        prompt = encode(lm, request.query.receiver).ids
        for option, scored in zip(request.options, answer.scored, strict=True):
            total, greedy = teacher_forced(lm, prompt, continuation_ids(lm, request.query.receiver, option))
            assert scored.loglikelihood == pytest.approx(total, abs=1e-4)
            assert scored.greedy == greedy


def test_an_option_that_greedy_decoding_would_write_is_called_greedy() -> None:
    lm = shared_lm("qwen3")
    best = written(lm, SENTENCES[:2], [(), ()], budget=4)
    options = [[g.tokens, (*g.tokens[:-1], g.tokens[-1] ^ 1), g.tokens[:1]] for g in best]
    with torch.inference_mode():
        found = score(read(lm, SENTENCES[:2]), options, CallStats())
    assert [[s.greedy for s in row] for row in found] == [[True, False, True]] * 2


def test_options_beyond_the_memory_for_logits_are_read_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, options = shared_lm("qwen3"), [[(3, 4, 5), (6,), (7, 8), (9, 10, 11, 12)]] * 2
    with torch.inference_mode():
        whole = score(read(lm, SENTENCES[:2]), options, CallStats())
        monkeypatch.setattr(generate, "_LOGIT_BYTES", 1)
        parts = score(read(lm, SENTENCES[:2]), options, work := CallStats())
    assert work.counters.forwards == 3
    for row, other in zip(whole, parts, strict=True):
        assert [s.loglikelihood for s in row] == pytest.approx([s.loglikelihood for s in other], abs=1e-5)


def _channels() -> list[Channel]:
    lm = shared_lm("qwen3")
    return [Single(lm), fused(lm, shared_lm("qwen2", 1)), fused(lm, shared_lm("llama", 1, FOREIGN))]


def test_branches_of_unequal_rows_do_not_see_each_other() -> None:
    options = [("A",), (" the sky and the river",) * 3, (" B", "Wenn Blau 🙂"), ("A", " the", " B and C"), (" C",)]
    requests = [Request(query(t), options=o) for t, o in zip(SENTENCES, options, strict=True)]
    for channel in _channels():
        for i, (request, answer) in enumerate(zip(requests, answers(channel, requests), strict=True)):
            one_by_one = [Request(request.query, options=(o,)) for o in request.options]
            expected = [a.scored[0].loglikelihood for a in answers(channel, one_by_one, Budget(1))]
            assert [s.loglikelihood for s in answer.scored] == pytest.approx(expected, abs=1e-4), i
