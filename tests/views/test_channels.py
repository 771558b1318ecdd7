"""A fact that only the sharer reads, through every channel: who reads it, and what it can change.

Models of one vocabulary and of two; the receiver's prompts are what its model is given, token by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.benchmarks.questions import Item, load_benchmark
from harness.channels.control_registry import CONTROLS
from harness.channels.controls import Control, band_means
from harness.channels.ensemble import Ensemble
from harness.channels.messages import TensorMessage, TextMessage
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant
from harness.config import build
from harness.inference.types import CallStats, Query
from harness.models.lm import LM
from harness.registry import resolve
from tests.support.tiny import FOREIGN, fused, shared_lm
from tests.views.build import FACTS, write_task

OTHER = ("coal", *FACTS[1:])
SHARERS = {"one vocabulary": ("qwen2", 1), "two vocabularies": ("llama", 1, FOREIGN)}


def items(folder: Path, facts: tuple[str, ...] = FACTS, **changes: str) -> list[Item]:
    path = write_task(folder, facts=facts, **changes)
    config = build({"tasks": [str(path)], "receiver": "r", "sharers": ["s"], "channels": ["receiver", "t2t"]})
    return load_benchmark(config).all_items


def queries(folder: Path, facts: tuple[str, ...] = FACTS, **changes: str) -> list[Query]:
    return [item.request.query for item in items(folder, facts, **changes)]


@pytest.fixture(params=list(SHARERS))
def sharer(request: pytest.FixtureRequest) -> LM:
    return shared_lm(*SHARERS[request.param])


@contextmanager
def read_by(lm: LM) -> Iterator[list[str]]:
    """Collects the text of every row that a model is given while it is open."""
    texts: list[str] = []

    def keep(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = given[0] if given else named["input_ids"]
        texts.extend(lm.tokenizer.decode(row) for row in ids)

    with lm.model.base_model.register_forward_pre_hook(keep, with_kwargs=True):
        yield texts


def logits(channel: Any, asked: Sequence[Query], change: Any = None) -> torch.Tensor:
    with torch.inference_mode():
        message = channel.send(asked, CallStats())
        return channel.receive(asked, message if change is None else change(message), CallStats()).logits


def channels(sharer: LM) -> dict[str, Any]:
    receiver = shared_lm()
    return {
        "receiver": Single(receiver),
        "t2t": TextToText(receiver, sharer, TextVariant(max_new_tokens=3)),
        "c2c": fused(receiver, sharer),
        "ensemble": Ensemble(receiver, sharer),
    }


@pytest.mark.parametrize("name", ["receiver", "t2t", "c2c", "ensemble"])
def test_the_fact_is_in_no_prompt_of_the_receiver_and_in_the_sharer_s(tmp_path: Path, sharer: LM, name: str) -> None:
    channel, asked = channels(sharer)[name], queries(tmp_path)
    with read_by(shared_lm()) as receivers, read_by(sharer) as sharers:
        logits(channel, asked, said_nothing if name == "t2t" else None)
    assert len([text for text in receivers if "box" in text]) >= len(asked)
    assert not [text for text in receivers for fact in FACTS if fact in text]
    assert name == "receiver" or all(any(fact in text for text in sharers) for fact in FACTS)


def said_nothing(message: TextMessage) -> TextMessage:
    """What random models write is anything; whatever the sharer says, the receiver may read."""
    return TextMessage(("hm",) * len(message), message.asked)


@pytest.mark.parametrize("views", ['sharer_doc_to_text: "{{fact}} ! {{question}}"', "receiver_hides: options"])
def test_the_exchange_shows_the_receiver_nothing_of_another_text_or_of_hidden_options(
    tmp_path: Path, views: str
) -> None:
    asked = queries(tmp_path, views=views)
    channel = TextToText(shared_lm(), shared_lm("qwen2", 1), TextVariant(with_options=True, max_new_tokens=3))
    with read_by(shared_lm()) as receivers, read_by(shared_lm("qwen2", 1)) as sharers:
        logits(channel, asked, said_nothing)
    hidden = ["a stone"] if "hides" in views else FACTS
    assert not [text for text in receivers for word in hidden if word in text]
    assert all(any(word in text for text in sharers) for word in hidden)


def test_the_sharer_alone_reads_its_own_view(tmp_path: Path) -> None:
    one, other = queries(tmp_path / "a"), queries(tmp_path / "b", OTHER)
    alone = Single(shared_lm(), "sharer", role="sharer")
    assert not torch.allclose(logits(alone, one[:1]), logits(alone, other[:1]))
    assert torch.equal(logits(alone, one[1:]), logits(alone, other[1:]))


def test_what_only_the_sharer_read_reaches_the_receiver_through_its_cache(tmp_path: Path, sharer: LM) -> None:
    one, other = queries(tmp_path / "a"), queries(tmp_path / "b", OTHER)
    channel = fused(shared_lm(), sharer)
    assert not torch.allclose(logits(channel, one[:1]), logits(channel, other[:1]))
    assert torch.equal(logits(channel, one[1:2]), logits(channel, other[1:2]))


def test_a_changed_fact_changes_no_logit_under_mean_and_closed(tmp_path: Path, sharer: LM) -> None:
    one, other = queries(tmp_path / "a"), queries(tmp_path / "b", OTHER)
    channel = fused(shared_lm(), sharer)
    with torch.inference_mode():
        means = band_means([channel.send(one[1:], CallStats())])
    control = Control(CONTROLS.get("mean"), mean=means)
    found = [logits(channel, asked[:1], lambda m, a=asked: control(m, a[:1])) for asked in (one, other)]
    assert torch.equal(*found)
    closed = resolve(CONTROLS.get("closed").reader)(channel)
    assert torch.equal(logits(closed, one[:1]), logits(closed, other[:1]))
    assert torch.equal(logits(closed, one[:1]), logits(Single(shared_lm()), one[:1]))


def test_every_token_that_both_read_is_fused_and_the_receiver_s_prompt_stays(tmp_path: Path, sharer: LM) -> None:
    query = queries(tmp_path)[0]
    planner = fused(shared_lm(), sharer).planner
    plain, own = planner.plan(query.receiver), planner.plan(query.receiver, query.sharer)
    assert (own.ids[0], own.real[0], own.options) == (plain.ids[0], plain.real[0], plain.options)
    assert own.fused == plain.fused
    assert own.cuts == plain.cuts
    (places,) = own.elsewhere
    theirs = [own.ids[1][at] for a, b in places for at in range(a, b)]
    assert theirs == [plain.ids[1][at] for a, b in plain.fused for at in range(a, b)]
    before = sharer.tokenizer.decode(own.ids[1][: places[-1][0]])
    assert "Box 0 holds zinc ." in before


def test_a_batch_of_two_views_gives_what_each_question_gives_alone(tmp_path: Path, sharer: LM) -> None:
    asked = queries(tmp_path)
    for name, channel in channels(sharer).items():
        if name == "t2t":
            continue
        together = logits(channel, asked)
        alone = torch.cat([logits(channel, [query]) for query in asked])
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)


def test_the_sharer_s_own_words_reach_it_at_their_own_positions(tmp_path: Path) -> None:
    """What crosses is the sharer's cache of its whole prompt at the places of the common tokens, as it was."""
    query, sharer = queries(tmp_path)[0], shared_lm("qwen2", 1)
    channel = fused(shared_lm(), sharer)
    plan = channel.planner.plan(query.receiver, query.sharer)
    (places,) = plan.elsewhere
    with torch.inference_mode():
        message = channel.send([query], CallStats())
        ids = torch.tensor([plan.ids[1]])
        cache = sharer.model(input_ids=ids, use_cache=True).past_key_values
    assert isinstance(message, TensorMessage)
    at = [place for a, b in places for place in range(a, b)]
    for entry, (kind, layer) in enumerate(channel.links[0].sent):
        states = (cache.layers[layer].keys, cache.layers[layer].values)[kind][0][:, at]
        expected = states.transpose(0, 1).flatten(1)
        torch.testing.assert_close(message.parts[0][entry], expected, atol=1e-5, rtol=0)
