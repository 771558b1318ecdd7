"""Probabilities of two models combined: by hand over options, token by token in decoding, whatever the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.channels.ensemble import RULES, Ensemble, build
from harness.channels.interface import LoadedModels, Unsuitable
from harness.channels.registry import EnsembleOptions
from harness.channels.single import Single
from harness.inference.batching import Budget
from harness.inference.types import Request
from tests.support.tiny import FOREIGN, random_lm, shared_lm
from tests.support.work import SENTENCES, answers, query

OPTIONS = (" A", " B", " both of them")
RECEIVER, SHARER = shared_lm("qwen3"), shared_lm("qwen2", 1)


def by_hand(rule: str, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Probabilities of the ensemble from two vectors of probabilities."""
    if rule == "mean":
        return (ours + theirs) / 2
    if rule == "product":
        root = (ours * theirs).sqrt()
        return root / root.sum()
    doubts = [-(p * p.log()).sum() for p in (ours, theirs)]
    return theirs if doubts[1] < doubts[0] else ours


@pytest.mark.parametrize("rule", RULES)
def test_options_are_combined_as_probabilities_over_the_options(rule: str) -> None:
    requests = [Request(query(text), options=OPTIONS) for text in SENTENCES]
    alone = [answers(Single(lm), requests) for lm in (RECEIVER, SHARER)]
    together = answers(Ensemble(RECEIVER, SHARER, rule), requests)
    for ours, theirs, both in zip(*alone, together, strict=True):
        a, b = (torch.tensor([s.loglikelihood for s in one.scored]).softmax(-1) for one in (ours, theirs))
        combined = torch.tensor([s.loglikelihood for s in both.scored]).exp()
        torch.testing.assert_close(combined, by_hand(rule, a, b), atol=1e-5, rtol=1e-4)
        assert both.payload_bytes == 4 * len(OPTIONS)


@pytest.mark.parametrize("rule", RULES)
def test_decoding_combines_each_next_token(rule: str) -> None:
    request = Request(query(SENTENCES[1]), max_new_tokens=6)
    (both,) = answers(Ensemble(RECEIVER, SHARER, rule), [request])
    rows = [Single(lm).answers for lm in (RECEIVER, SHARER)]
    ids = [_ids(lm, SENTENCES[1]) for lm in rows]
    written: list[int] = []
    for _ in range(6):
        logits = [lm.model(torch.tensor([i + written])).logits[0, -1] for lm, i in zip(rows, ids, strict=True)]
        a, b = (row.softmax(-1) for row in logits)
        token = int(by_hand(rule, a, b).argmax())
        written.append(token)
        if token in RECEIVER.stop_ids:
            break
    assert list(both.tokens) == written
    assert both.payload_bytes == 4 * len(written) * RECEIVER.model.config.vocab_size


def _ids(lm: object, text: str) -> list[int]:
    from harness.models.chat import encode, user_turn

    return list(encode(lm, user_turn(text)).ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
def test_a_model_beside_itself_answers_as_alone(rule: str) -> None:
    requests = [Request(query(text), max_new_tokens=8) for text in SENTENCES]
    alone, both = answers(Single(RECEIVER), requests), answers(Ensemble(RECEIVER, RECEIVER, rule), requests)
    assert [a.text for a in alone] == [b.text for b in both]


def test_batches_and_rows_that_end_early_change_nothing() -> None:
    stops = [("e",), (), ("a", "i"), (), (" ",)]
    asked = [Request(query(t), max_new_tokens=9, stops=s) for t, s in zip(SENTENCES, stops, strict=True)]
    channel = Ensemble(RECEIVER, SHARER)
    one, all_ = answers(channel, asked, Budget(1)), answers(channel, asked, Budget(8))
    assert [(a.text, a.tokens) for a in one] == [(a.text, a.tokens) for a in all_]


def test_option_questions_that_ask_for_text_are_answered_by_label() -> None:
    foreign = random_lm("llama", seed=2, words=FOREIGN)
    labels = ("A", "B", "C", "D")
    asked = [Request(query(text, labels=labels), max_new_tokens=8) for text in SENTENCES]
    written = answers(Ensemble(RECEIVER, foreign), asked)
    scored = answers(Ensemble(RECEIVER, foreign), [Request(query(text), options=labels) for text in SENTENCES])
    for text, row in zip(written, scored, strict=True):
        best = max(range(4), key=lambda i: row.scored[i].loglikelihood)
        assert text.text == labels[best]
        assert text.entropy == pytest.approx(row.entropy)


def test_open_questions_and_two_vocabularies_do_not_go_together() -> None:
    foreign = random_lm("llama", seed=2, words=FOREIGN)
    models = LoadedModels(RECEIVER, (), (foreign,), requests=[Request(query("Why?"), max_new_tokens=3)])
    with pytest.raises(Unsuitable, match="two vocabularies"):
        build(models, EnsembleOptions())
    assert build(replace(models, sharers=(SHARER,)), EnsembleOptions())
    lettered = replace(models, requests=[Request(query("Why?", labels=("A", "B")), max_new_tokens=3)])
    assert build(lettered, EnsembleOptions())
