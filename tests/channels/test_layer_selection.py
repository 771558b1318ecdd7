"""`c2c:layers=...`: which of a fuser's layers are fused, without training it again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from pydantic import ValidationError

from harness.channels.c2c import CacheToCache, Link, link_sharer
from harness.channels.layer_selection import select_layers
from harness.channels.registry import FusedOptions
from harness.channels.spec import parse_channel
from harness.errors import UserError
from harness.inference.types import CallStats, Query
from harness.models.chat import user_turn
from tests.support.tiny import random_fuser, shared_lm

LAYERS = (2, 3, 5, 8, 9)
SCORES = (0.1, 0.9, 0.5, 0.9, -1.0)


def chosen(text: str, layers: Sequence[int] = LAYERS) -> list[int]:
    return sorted(select_layers(text, layers, lambda: SCORES))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *(("first", [2, 3, 5]), ("last", [5, 8, 9]), ("first1", [2]), ("last2", [8, 9])),
        *(("every2", [2, 5, 9]), ("every1", list(LAYERS)), ("every7", [2])),
        *(("top1", [3]), ("top2", [3, 8]), ("top3", [3, 5, 8]), ("top5", list(LAYERS))),
        *(("3", [3]), ("2-3,9", [2, 3, 9]), ("2-3+9", [2, 3, 9])),
    ],
)
def test_a_choice_is_made_among_the_fusers_own_layers(text: str, found: list[int]) -> None:
    assert chosen(text) == found
    assert FusedOptions(layers=text).layers == text


@pytest.mark.parametrize(
    ("text", "words"), [("top6", "give at most top5"), ("4", "no layer 4"), ("3-12", "from 0 to 9")]
)
def test_more_than_there_is_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        chosen(text)


@pytest.mark.parametrize("text", ["", "top", "every", "first0", "every0", "half", "top-1", "1,,2", "3-", "every²"])
def test_what_is_no_choice_is_refused_before_anything_is_loaded(text: str) -> None:
    with pytest.raises(ValidationError):
        FusedOptions(layers=text)


def test_a_choice_is_part_of_the_arms_name() -> None:
    assert parse_channel("c2c:layers=top8").text == "c2c:layers=top8"
    with pytest.raises(UserError, match="layers"):
        parse_channel("c2c:layers=best")


def test_only_what_crosses_is_paid_and_the_rest_is_as_with_shut_gates() -> None:
    receiver, sharer = shared_lm("qwen3"), shared_lm("llama", seed=1)
    fuser = random_fuser(receiver, sharer)
    shut = random_fuser(receiver, sharer)
    with torch.no_grad():
        shut.gates()[:, [0, 2]] = -1.0
    shut.refresh()
    queries = [Query(user_turn("hello there"))]
    found = []
    for link in (link_sharer(sharer, fuser, "1"), Link(sharer, shut), Link(sharer, fuser)):
        channel = CacheToCache(receiver, (link,))
        with torch.inference_mode():
            message = channel.send(queries, CallStats())
            found.append((message.payload_bytes, channel.receive(queries, message, CallStats()).logits))
    (part, logits), (same, expected), (whole, _) = found
    assert part == same
    assert 3 * part[0] == whole[0]
    assert torch.equal(logits, expected)


def test_top_follows_the_larger_gate_of_a_layer() -> None:
    receiver, sharer = shared_lm("qwen3"), shared_lm("llama", seed=1)
    fuser = random_fuser(receiver, sharer)
    with torch.no_grad():
        fuser.gate_logit.copy_(torch.tensor([0.1, 0.2, 0.3, 0.1, 0.9, 0.2]))
    assert link_sharer(sharer, fuser, "top1").layers == {1}
    assert link_sharer(sharer, fuser, "top2").entries == (1, 2, 4, 5)
