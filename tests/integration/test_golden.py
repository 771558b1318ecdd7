"""Parity with the original implementation's recorded numbers, alone and in one mixed batch."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.channels.c2c import CacheToCache, Link
from harness.channels.prompt_layout import Plan
from harness.channels.single import Single
from harness.fusers.checkpoint import load
from harness.inference.generate import generate
from harness.inference.types import CallStats, Context, Query
from harness.models import chat
from harness.models.chat import Conversation, Turn, user_turn
from tests.support.tiny import GOLDEN, golden_lm
from tests.support.work import context_of

NEAR_TIE = 1e-3
RECEIVER = "same_tokenizer/receiver"


@dataclass(frozen=True)
class Case:
    folder: str
    file: str
    sharer: str
    alignment: str

    def __str__(self) -> str:
        return f"{self.folder}-{self.file}"


CASES = (
    Case("same_tokenizer", "golden", "same_tokenizer/sharer", "auto"),
    Case("same_tokenizer_depth4", "golden", "same_tokenizer/sharer", "auto"),
    Case("cross_tokenizer", "golden_first", "cross_tokenizer/sharer", "first"),
    Case("cross_tokenizer", "golden_longest", "cross_tokenizer/sharer", "longest"),
)
QUIRKS = tuple(Case("cross_tokenizer", f"quirks_{s}", "cross_tokenizer/sharer", s) for s in ("first", "longest"))


@functools.cache
def recorded(case: Case) -> dict[str, dict[str, Any]]:
    content = json.loads((GOLDEN / case.folder / f"{case.file}.json").read_text(encoding="utf-8"))
    return {prompt["name"]: prompt for prompt in content["prompts"]}


@functools.cache
def tensors(case: Case) -> Mapping[str, Tensor]:
    loaded: dict[str, Tensor] = load_file(GOLDEN / case.folder / f"{case.file}.safetensors")
    return loaded


def channel_of(case: Case) -> CacheToCache:
    link = Link(golden_lm(case.sharer), load(GOLDEN / case.folder / "fuser"))
    return CacheToCache(golden_lm(RECEIVER), (link,), alignment=case.alignment)


def conversation_of(prompt: Mapping[str, Any]) -> Conversation:
    return Conversation(tuple(Turn(m["role"], m["content"]) for m in prompt["messages"]))


def fused_spans(prompt: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    runs = prompt["kv_cache_index_runs"]
    ends = [0, *accumulate(length for _, length in runs)]
    return tuple(span for (mark, _), span in zip(runs, pairwise(ends), strict=True) if mark[0] == 1)


def real_tokens(prompt: Mapping[str, Any], who: str) -> tuple[bool, ...]:
    runs = prompt.get(f"{who}_padding_runs", [[False, len(prompt["receiver_ids"])]])
    return tuple(not pad for pad, length in runs for _ in range(length))


def set_thinking(prompt: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(chat.TEMPLATE_ARGUMENTS, dict)
    monkeypatch.setitem(chat.TEMPLATE_ARGUMENTS, "enable_thinking", prompt["enable_thinking"])


def recorded_plan(prompt: Mapping[str, Any]) -> Plan:
    ids = (tuple(prompt["receiver_ids"]), tuple(prompt["sharer_ids"]))
    return Plan(ids, (real_tokens(prompt, "receiver"), real_tokens(prompt, "sharer")), fused_spans(prompt))


def all_planned(case: Case, monkeypatch: pytest.MonkeyPatch) -> dict[str, Plan]:
    # A fresh channel for each: one remembers plans by conversation, and some prompts differ in other things.
    return {name: planned(channel_of(case), prompt, monkeypatch) for name, prompt in recorded(case).items()}


def planned(channel: CacheToCache, prompt: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan we make; where the record fused only part of a prompt, our ids with the record's stretch."""
    set_thinking(prompt, monkeypatch)
    plan = channel.planner.plan(conversation_of(prompt))
    return Plan(plan.ids, plan.real, fused_spans(prompt)) if prompt["name"].endswith("_half") else plan


def fixed(channel: CacheToCache, plans: Mapping[str, Plan]) -> list[Query]:
    """Queries for which the channel uses exactly these plans."""
    queries = [Query(user_turn(name)) for name in plans]
    channel.planner._known.update({q.receiver: p for q, p in zip(queries, plans.values(), strict=True)})
    return queries


def all_prompts(cases: tuple[Case, ...]) -> list[Any]:
    return [pytest.param(case, name, id=f"{case}-{name}") for case in cases for name in recorded(case)]


def assert_logits(context: Context, case: Case, names: list[str], kind: str) -> None:
    expected = torch.stack([tensors(case)[f"{name}.{kind}_logits"].flatten() for name in names])
    torch.testing.assert_close(context.logits, expected, atol=2e-4, rtol=0.0)


def assert_same_tokens(context: Context, expected: list[list[int]], gaps: list[list[float]]) -> None:
    with torch.inference_mode():
        written = generate(context, 16, [()] * len(expected), CallStats(), exactly=16)
    for found, tokens, gap in zip(written, expected, gaps, strict=True):
        certain = next((i for i, g in enumerate(gap) if g < NEAR_TIE), len(gap))
        assert list(found.tokens[:certain]) == tokens[:certain]


@pytest.mark.parametrize(("case", "name"), all_prompts(CASES))
def test_a_prompt_alone_gives_the_recorded_plan_logits_and_tokens(
    case: Case, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, channel = recorded(case)[name], channel_of(case)
    plan = planned(channel, prompt, monkeypatch)
    assert plan == recorded_plan(prompt)
    context = context_of(channel, fixed(channel, {name: plan}))
    assert_logits(context, case, [name], "fused")
    assert_same_tokens(context, [prompt["fused_greedy16"]], [prompt["fused_top2_gap"]])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_prompts_in_one_batch_give_the_recorded_numbers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    channel, known = channel_of(case), recorded(case)
    context = context_of(channel, fixed(channel, all_planned(case, monkeypatch)))
    assert_logits(context, case, list(known), "fused")
    both = [(p["fused_greedy16"], p["fused_top2_gap"]) for p in known.values()]
    assert_same_tokens(context, [tokens for tokens, _ in both], [gaps for _, gaps in both])


@pytest.mark.parametrize("case", [c for c in CASES if "longest" not in c.file], ids=str)
def test_the_cache_after_the_prompt_is_the_recorded_one(case: Case) -> None:
    channel, known = channel_of(case), recorded(case)
    shared = [Query(conversation_of(known[name])) for name in ("short", "mcq")]
    for queries in (shared[:1], shared):
        buffer = context_of(channel, queries).buffer
        assert buffer.data is not None
        first = int(buffer.length - len(known["short"]["receiver_ids"]))
        for layer in range(buffer.n_layers):
            for kind, word in enumerate(("key", "value")):
                found = buffer.data[kind, layer, :1, :, first : buffer.length]
                expected = tensors(case)[f"short.kv.{layer}.{word}"]
                mine = torch.tensor(real_tokens(known["short"], "receiver"))
                torch.testing.assert_close(found[:, :, mine], expected[:, :, mine], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("case", "name"), all_prompts((CASES[0], CASES[2])))
def test_the_receiver_alone_gives_the_recorded_numbers(case: Case, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = recorded(case)[name]
    set_thinking(prompt, monkeypatch)
    context = context_of(Single(golden_lm(RECEIVER)), [Query(conversation_of(prompt))])
    assert_logits(context, case, [name], "receiver")
    assert_same_tokens(context, [prompt["receiver_greedy16"]], [prompt["receiver_top2_gap"]])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_closed_gates_give_the_recorded_numbers_without_fusion(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    channel, known = channel_of(case).closed(), recorded(case)
    context = context_of(channel, fixed(channel, all_planned(case, monkeypatch)))
    assert_logits(context, case, list(known), "nofusion")


@pytest.mark.parametrize(("case", "name"), all_prompts(QUIRKS))
def test_on_a_doubtful_prompt_the_recorded_plan_still_gives_the_recorded_numbers(case: Case, name: str) -> None:
    prompt, channel = recorded(case)[name], channel_of(case)
    context = context_of(channel, fixed(channel, {name: recorded_plan(prompt)}))
    assert_logits(context, case, [name], "fused")
    assert_same_tokens(context, [prompt["fused_greedy16"]], [prompt["fused_top2_gap"]])


@pytest.mark.parametrize("case", QUIRKS, ids=str)
def test_doubtful_prompts_are_planned_as_recorded_but_for_role_words(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = recorded(case)
    plans = all_planned(case, monkeypatch)
    for name in ("pad_last_position", "special_in_content"):
        assert plans[name] == recorded_plan(known[name])
    # A message that is a role word: ours fuses the message, the original the header and what follows it.
    (span,) = plans["role_word_content"].fused
    words = golden_lm(RECEIVER).tokenizer
    assert words.decode(plans["role_word_content"].ids[0][slice(*span)]) == "user"
    assert plans["role_word_content"].fused != fused_spans(known["role_word_content"])
