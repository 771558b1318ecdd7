"""Every model is checked when it is loaded: what differs from a plain forward call is read one by one, or refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.attention import register
from harness.channels.base import Work
from harness.channels.c2c import CacheToCache, Link
from harness.decoding import generate
from harness.errors import UserError
from harness.forward import FactorsChange
from harness.models import Together, load
from harness.self_check import checked, verdict
from harness.self_check.compare import Plain, read_ids, sequences
from harness.self_check.small import LENGTH, small_config, small_model
from harness.self_check.sweep import swept, table, tiny
from harness.self_check.verdict import small_lm
from tests.helpers.tiny import FOREIGN, random_fuser, random_lm, tokenizer

READ = {
    "llama": "equal to a plain forward call",
    "qwen2": "equal",
    "gemma3_text": "equal",
    "phi3": "equal",
    "gpt2": "equal",
    "gpt_oss": "equal",
    "mpt": "options of one prompt are read one by one",
    "gpt_neo": "options of one prompt are read one by one",
    "bloom": "options of one prompt are read one by one",
    "llama4_text": "rows of different lengths are read one by one",
}
REFUSED = {
    "mamba": "not plain keys and values but LinearAttentionLayer",
    "lfm2_moe": "LinearAttentionLayer",
    "deepseek_v3": "have different shapes",
    "mimo_v2_flash": "different widths",
    "dory": "runs layers more than once",
}
LONG = {
    "original_max_position_embeddings": 24,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 24,
    },
}


@pytest.mark.parametrize("kind", READ)
def test_a_dozen_architectures_are_read_as_transformers_reads_them(kind: str) -> None:
    row = next(iter(swept([kind])))
    assert row.right, row
    assert row.gap is not None, row
    assert row.outcome.startswith(READ[kind])


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_stored_is_refused_by_the_name_of_its_type(kind: str) -> None:
    with pytest.raises(UserError, match=rf"\({kind}\) cannot be used: .*{REFUSED[kind]}.*; choose"):
        checked(small_lm(tiny(kind, "eager")))


def test_attention_that_drops_something_is_refused_and_eager_named(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    assert checked(small_lm(tiny("granite_swa", "grouped"))).together.padded
    monkeypatch.setattr("harness.attention._softmax", lambda scores, sinks: scores.softmax(-1))
    verdict._verdict.cache_clear()
    with pytest.raises(UserError, match=r"\(granite_swa\) cannot be used: .*nats; use --attention eager"):
        checked(small_lm(tiny("granite_swa", "grouped")))
    verdict._verdict.cache_clear()


def test_an_unknown_argument_is_one_refusal_at_load() -> None:
    register()
    kind = "gpt_oss"
    model = tiny(kind, "grouped")
    code = type(model.model.layers[0].self_attn)
    forward = code.forward

    def biased(self: Any, *args: Any, **more: Any) -> Any:
        return forward(self, *args, **more, position_bias=torch.zeros(1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "forward", biased)
        verdict._verdict.cache_clear()
        with pytest.raises(UserError, match="'position_bias'"):
            checked(small_lm(model))
    verdict._verdict.cache_clear()


def test_sdpa_without_support_names_eager(tmp_path: Path) -> None:
    words = tokenizer()
    for kind in ("gemma2", "mamba"):
        tiny(kind, "eager").save_pretrained(tmp_path / kind)
        words.save_pretrained(tmp_path / kind)
    with pytest.raises(UserError, match=r"\(gemma2\) cannot be used: .*--attention sdpa; use --attention eager"):
        load(str(tmp_path / "gemma2"), device="cpu")
    with pytest.raises(UserError, match=r"\(mamba\) cannot be used: .*LinearAttentionLayer"):
        load(str(tmp_path / "mamba"), device="cpu")


def test_one_configuration_is_checked_once_and_the_random_numbers_of_the_caller_stay() -> None:
    verdict._verdict.cache_clear()
    lm, state = small_lm(tiny("llama", "sdpa")), torch.get_rng_state()
    assert checked(lm).together == checked(lm).together
    assert verdict._verdict.cache_info().misses == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_a_configuration_that_cannot_be_made_small_is_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "small_config", lambda _: 1 / 0)
    found = checked(small_lm(tiny("llama", "sdpa"))).together
    assert (found.padded, found.branched) == (False, False)
    assert "no small copy could be made" in found.checked


def test_weights_that_differ_in_a_batch_are_read_one_by_one() -> None:
    model = tiny("llama", "sdpa")
    plain = model.model.forward

    def beside(*args: Any, **more: Any) -> Any:
        found = plain(*args, **more)
        if more["input_ids"].shape[0] > 1:
            found.last_hidden_state *= -1
        return found

    model.model.forward = beside
    found = checked(small_lm(model)).together
    assert not found.padded
    assert "differ in a batch" in found.checked


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_reading_one_by_one_equals_reading_together(kind: str) -> None:
    lm = random_lm(kind)
    apart = replace(lm, together=Together(padded=False, branched=False))
    rows = [list(range(3, 30)), [5, 6], list(range(40, 51))]
    with torch.inference_mode():
        found = [generate(read_ids(one, rows), 6, [()] * 3, Work(), exactly=6) for one in (lm, apart)]
    assert [g.tokens for g in found[0]] == [g.tokens for g in found[1]]


def test_rope_factors_that_a_batch_shares_are_chosen_for_each_row() -> None:
    lm = checked(small_lm(small_model(*_phi(), "sdpa")))
    assert lm.together.factors_change == 24
    asked = sequences(lm.config.vocab_size)
    plain = Plain(lm.model, asked)
    with torch.inference_mode():
        logits = read_ids(lm, asked.prompts).logits.log_softmax(-1)
    torch.testing.assert_close(logits, torch.stack([row[0] for row in plain.rows]), atol=1e-3, rtol=1e-3)


def test_an_answer_across_the_change_of_factors_is_an_error_of_its_question() -> None:
    lm = checked(small_lm(small_model(*_phi(), "sdpa")))
    with torch.inference_mode(), pytest.raises(FactorsChange, match="before position 24"):
        generate(read_ids(lm, [list(range(8, 30))]), 8, [()], Work(), exactly=8)


def _phi() -> tuple[Any, Any]:
    model = tiny("phi3", "eager")
    config = type(model.config)(**{**model.config.to_dict(), **LONG})
    return type(model), small_config(config)


def test_alignment_and_batched_training_are_refused_where_columns_are_counted() -> None:
    receiver, sharer = random_lm("qwen3"), random_lm("llama", words=FOREIGN)
    counting = replace(receiver, together=Together(padded=False, branched=False))
    links = (Link(sharer, random_fuser(receiver, sharer)),)
    CacheToCache(receiver, links).planner.check()
    with pytest.raises(UserError, match=r"\(qwen3\) counts columns, not positions"):
        CacheToCache(counting, links).planner.check()


def test_sequences_go_past_every_window_and_are_as_long_as_they_say() -> None:
    asked = sequences(96)
    assert max(map(len, asked.prompts)) == LENGTH - 4
    assert len({len(row) for row in asked.rows}) == len(asked.rows)


def test_the_table_has_a_line_an_architecture() -> None:
    rows = list(swept(["llama", "mamba"]))
    assert [re.split(r" *\| *", line)[1] for line in table(rows).splitlines()[2:]] == ["llama", "mamba"]
    assert "refused" in rows[1].outcome
