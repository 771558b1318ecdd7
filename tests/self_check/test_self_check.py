"""Every model is checked when it is loaded: what differs from a plain forward call is read one by one, or refused."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import CONFIG_MAPPING, Gemma2ForCausalLM

from harness.channels.c2c import CacheToCache, Link
from harness.errors import UserError
from harness.factworld_build.world import save_tokenizer
from harness.inference.forward import FactorsChange
from harness.inference.generate import generate
from harness.inference.types import CallStats
from harness.lm_eval_bridge.model import SingleLM
from harness.models.grouped_attention import register
from harness.models.lm import Together
from harness.models.loading import load
from harness.self_check import check, checked, sweep
from harness.self_check.check import small_lm
from harness.self_check.compare import TOLERANCE, Plain, probe_sequences, read_ids
from harness.self_check.small import LENGTH, small_config, small_model
from harness.self_check.sweep import count_verdicts, markdown_row, sweep_architectures, table, tiny_model
from tests.support.numbered import numbered, numbered_words
from tests.support.tiny import FOREIGN, random_fuser, random_lm, tokenizer

READ = {
    "llama": "equal to a plain forward call",
    "olmo2": "equal",
    "granite": "equal",
    "gemma3_text": "equal",
    "phi3": "equal",
    "gpt2": "equal",
    "gpt_oss": "equal",
    "mpt": "options of one prompt are read one by one",
    "gpt_neo": "options of one prompt are read one by one",
    "bloom": "options of one prompt are read one by one",
    "llama4_text": "rows of different lengths are read one by one",
}
EAGER_ONLY = ("gpt_oss", "mpt", "bloom", "gpt_neo")
SIZE = 96  # of a small copy's vocabulary
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


def forget(patch: pytest.MonkeyPatch) -> None:
    """Checks every configuration again until the patch ends; what was checked before is kept."""
    patch.setattr(check, "_verdict", functools.cache(check._verdict.__wrapped__))


@pytest.mark.parametrize("kind", READ)
def test_a_dozen_architectures_answer_alone_as_transformers_does(kind: str, tmp_path: Path) -> None:
    attention = "eager" if kind in EAGER_ONLY else "sdpa"
    eager = tiny_model(kind, "eager")
    eager.save_pretrained(tmp_path)
    save_tokenizer(numbered_words(SIZE), tmp_path)
    lm = SingleLM(receiver=str(tmp_path), device="cpu", attention=attention, batch_size=3)
    assert lm.channel.answers.together.checked.startswith(READ[kind])
    asked = probe_sequences(SIZE, seed=7)
    prompts = [numbered(row) for row in asked.prompts]
    pairs = [(p, " " + numbered(option)) for p, own in zip(prompts, asked.options, strict=True) for option in own]
    expected = [value for row in Plain(eager, asked).options for value in row]
    scores = [value for value, _ in lm.loglikelihood(instances("loglikelihood", pairs))]
    assert scores == pytest.approx(expected, abs=TOLERANCE)
    texts = lm.generate_until(instances("generate_until", [(p, {"until": [], "max_gen_toks": 3}) for p in prompts]))
    assert [text.split() for text in texts] == [greedy(eager, row, 3).split() for row in asked.prompts]


def instances(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, one, i, task_name="t", doc_id=i // 3, repeats=1) for i, one in enumerate(arguments)]


def greedy(model: Any, ids: Sequence[int], n: int) -> str:
    row = list(ids)
    while len(row) < len(ids) + n:
        row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
        if row[-1] == model.config.eos_token_id:
            return numbered(row[len(ids) : -1])
    return numbered(row[len(ids) :])


def test_a_type_that_fails_is_one_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no such | luck")

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "checked", fails)
        late = next(iter(sweep_architectures(["llama"])))
    monkeypatch.setattr(sweep, "tiny_model", fails)
    early, refused = sweep_architectures(["llama", "mamba"])
    assert [row.verdict for row in (late, early, refused)] == ["wrong", "not built", "refused"]
    assert [row.right for row in (late, early, refused)] == [False, True, True]
    assert "RuntimeError: no such / luck" in markdown_row(early)
    assert count_verdicts([late, early, refused]).startswith("3 architectures: 1 refused, 1 not built, 1 wrong; ")
    assert count_verdicts([late, early, refused]).endswith("; wrong: llama")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_stored_is_refused_by_the_name_of_its_type(kind: str) -> None:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers does not know {kind}")
    with pytest.raises(UserError, match=rf"\({kind}\) cannot be used: .*{REFUSED[kind]}.*; choose"):
        checked(small_lm(tiny_model(kind, "eager")))


def test_attention_that_drops_something_is_refused_and_eager_named(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    assert checked(small_lm(tiny_model("granite_swa", "grouped"))).together.padded
    monkeypatch.setattr("harness.models.grouped_attention._softmax", lambda scores, sinks: scores.softmax(-1))
    forget(monkeypatch)
    with pytest.raises(UserError, match=r"\(granite_swa\) cannot be used: .*nats; use --attention eager"):
        checked(small_lm(tiny_model("granite_swa", "grouped")))


def test_an_unknown_argument_is_one_refusal_at_load() -> None:
    register()
    kind = "gpt_oss"
    model = tiny_model(kind, "grouped")
    code = type(model.model.layers[0].self_attn)
    forward = code.forward

    def biased(self: Any, *args: Any, **more: Any) -> Any:
        return forward(self, *args, **more, position_bias=torch.zeros(1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "forward", biased)
        forget(patch)
        with pytest.raises(UserError, match="'position_bias'"):
            checked(small_lm(model))


def test_sdpa_without_support_names_eager(tmp_path: Path) -> None:
    words = tokenizer()
    for kind in ("gemma2", "mamba"):
        model = tiny_model(kind, "eager")
        model.resize_token_embeddings(len(words))
        model.save_pretrained(tmp_path / kind)
        words.save_pretrained(tmp_path / kind)
    # Transformers before 5.21 takes sdpa for gemma2 and leaves its soft capping out.
    seen = "differs from .* nats" if Gemma2ForCausalLM._supports_sdpa else "--attention sdpa"
    with pytest.raises(UserError, match=rf"\(gemma2\) cannot be used: .*{seen}; use --attention eager"):
        checked(load(str(tmp_path / "gemma2"), device="cpu"))
    with pytest.raises(UserError, match=r"\(mamba\) cannot be used: .*LinearAttentionLayer"):
        load(str(tmp_path / "mamba"), device="cpu")


def test_one_configuration_is_checked_once_and_the_random_numbers_of_the_caller_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget(monkeypatch)
    lm, state = small_lm(tiny_model("llama", "sdpa")), torch.get_rng_state()
    assert checked(lm).together == checked(lm).together
    assert check._verdict.cache_info().misses == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_a_configuration_that_cannot_be_made_small_is_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "small_config", lambda _: 1 / 0)
    found = checked(small_lm(tiny_model("llama", "sdpa"))).together
    assert (found.padded, found.branched) == (False, False)
    assert "no small copy could be made" in found.checked


def test_weights_that_differ_in_a_batch_are_read_one_by_one() -> None:
    model = tiny_model("llama", "sdpa")
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
        found = [generate(read_ids(one, rows), 6, [()] * 3, CallStats(), exactly=6) for one in (lm, apart)]
    assert [g.tokens for g in found[0]] == [g.tokens for g in found[1]]


def test_rope_factors_that_a_batch_shares_are_chosen_for_each_row() -> None:
    lm = checked(small_lm(small_model(*_phi(), "sdpa")))
    assert lm.together.factors_change == 24
    asked = probe_sequences(lm.config.vocab_size)
    plain = Plain(lm.model, asked)
    with torch.inference_mode():
        logits = read_ids(lm, asked.prompts).logits.log_softmax(-1)
    torch.testing.assert_close(logits, torch.stack([row[0] for row in plain.rows]), atol=1e-3, rtol=1e-3)


def test_an_answer_across_the_change_of_factors_is_an_error_of_its_question() -> None:
    lm = checked(small_lm(small_model(*_phi(), "sdpa")))
    with torch.inference_mode(), pytest.raises(FactorsChange, match="before position 24"):
        generate(read_ids(lm, [list(range(8, 30))]), 8, [()], CallStats(), exactly=8)


def _phi() -> tuple[Any, Any]:
    model = tiny_model("phi3", "eager")
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
    asked = probe_sequences(96)
    assert max(map(len, asked.prompts)) == LENGTH - 4
    assert len({len(row) for row in asked.rows}) == len(asked.rows)


def test_the_table_has_a_line_an_architecture() -> None:
    rows = list(sweep_architectures(["llama", "mamba"]))
    assert rows[0].gap is not None
    assert rows[0].gap <= TOLERANCE
    assert rows[0].verdict == "equal"
    assert [re.split(r" *\| *", line)[1] for line in table(rows).splitlines()[2:]] == ["llama", "mamba"]
    assert rows[1].verdict == "refused"
