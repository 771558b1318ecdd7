"""Each model behind lm-eval takes its own arguments, with effect, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.config import RunConfig
from harness.errors import UserError
from harness.lm_eval_bridge.arguments import AS_LM_EVAL, C2C, SINGLE, T2T, Model, setup_of

R = {"receiver": "org/r"}
RS = {**R, "sharer": "org/s"}
RSF = {**RS, "fuser": "org/f"}


def refused(model: Model, given: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        setup_of(model, given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "base", "name"),
    [
        *[(SINGLE, R, n) for n in ("sharer", "sharers", "sharer_chat_template", "fuser", "fusers")],
        *[(SINGLE, R, n) for n in ("mode", "alignment", "with_options", "may_answer", "max_new_tokens", "t2t_tokens")],
        *[(T2T, RS, n) for n in ("fuser", "fusers", "mode", "fusion_mode", "alignment")],
        *[(C2C, RSF, n) for n in ("with_options", "may_answer", "max_new_tokens", "t2t_tokens")],
        *[(m, b, n) for m, b in ((SINGLE, R), (T2T, RS), (C2C, RSF)) for n in ("subfolder", "delta", "logits_cache")],
        *[(SINGLE, R, n) for n in ("channels", "controls", "seed", "tuned", "backend", "log_samples", "gen_kwargs")],
    ],
)
def test_what_is_not_a_models_own_is_refused_by_name(model: Model, base: dict[str, Any], name: str) -> None:
    said = refused(model, {**base, name: "x"})
    assert f"model_args has {name}, which {model.name} does not take" in said
    assert "receiver" in said


def test_every_declared_argument_ends_in_the_configuration_or_the_setup() -> None:
    for model in (SINGLE, T2T, C2C):
        for argument in model.arguments:
            assert argument.own or (argument.field or argument.name) in RunConfig.model_fields


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pretrained": "a", "receiver": "b"}, "receiver"),
        ({"pretrained": "a", "path": "a"}, "keep one"),
        ({**R, "attention": "eager", "attn_implementation": "sdpa"}, "attention"),
        ({**R, "parallelize": True, "device_map": "balanced"}, "both place"),
        ({}, "needs receiver=..."),
        ({**R, "revision": "a", "gguf_file": "m.gguf"}, "gguf_file=m.gguf"),
        ({"receiver": "org/r@a", "revision": "b"}, "contradicts"),
        ({**R, "max_batch_size": 4}, "no effect"),
        ({**R, "latency_warm_up": 4}, "no effect"),
        ({**R, "dtype": "int8"}, "dtype"),
        ({**R, "device": "gpu"}, "device"),
        ({**R, "device": "meta"}, "device"),
        ({**R, "max_length": 0}, "max_length"),
        ({**R, "add_bos_token": "maybe"}, "add_bos_token"),
        ({**R, "revision": 1e10}, "quotes"),
    ],
    ids=str,
)
def test_contradictions_and_wrong_values_are_refused(given: dict[str, Any], said: str) -> None:
    assert said in refused(SINGLE, given)


@pytest.mark.parametrize("value", [0, -1, 2.5, "2.5", "-1", "0", True, "many", "", "autumn"])
def test_a_batch_size_is_a_whole_number_or_auto(value: Any) -> None:
    assert "batch_size" in refused(SINGLE, {**R, "batch_size": value})


def test_a_batch_size_may_be_text_and_auto() -> None:
    assert setup_of(SINGLE, {**R, "batch_size": "7"}).batch_size == 7
    assert setup_of(SINGLE, {**R, "batch_size": "auto", "device": "cpu"}).batch_size == 8
    assert setup_of(SINGLE, {**R, "batch_size": "auto:4", "max_batch_size": 3, "device": "cpu"}).batch_size == 3


def test_the_usual_device_of_lm_eval_falls_back_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert setup_of(SINGLE, {**R, "device": "cuda:0"}).config.device == "cpu"
    assert setup_of(SINGLE, {**R, "device": "cuda:9"}).config.device == "cuda:9"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert setup_of(SINGLE, {**R, "device": "cuda:0"}).config.device == "cuda:0"
    spread = setup_of(SINGLE, {**R, "device": "cuda:0", "parallelize": True}).config
    assert (spread.device, spread.device_map) == ("auto", "auto")


def test_what_hf_takes_means_the_same_here(tmp_path: Path) -> None:
    given = {"pretrained": "org/r", "revision": "abc", "dtype": "torch.bfloat16", "max_length": "64", "peft": "org/p"}
    given |= {"attn_implementation": "eager", "trust_remote_code": True, "add_bos_token": False, "prefix_token_id": 3}
    setup = setup_of(SINGLE, given)
    config = setup.config
    assert (config.receiver, config.dtype, config.max_length, config.peft) == ("org/r@abc", "bfloat16", 64, "org/p")
    assert (config.attention, config.trust_remote_code) == ("eager", True)
    assert setup.reading == replace(AS_LM_EVAL, add_bos=False, start=3)
    assert setup_of(SINGLE, {"pretrained": str(tmp_path), "gguf_file": "m.gguf"}).config.receiver == str(
        tmp_path / "m.gguf"
    )
    assert "no effect" in refused(SINGLE, {"pretrained": str(tmp_path), "revision": "abc"})


def test_several_sharers_are_for_fused_caches_alone() -> None:
    config = setup_of(C2C, {**R, "sharer": "a;b", "fuser": "f;g", "mode": "parallel"}).config
    assert (config.sharers, config.fusers, config.channels) == (("a", "b"), ("f", "g"), ("c2c:mode=parallel",))
    assert "names 2 models" in refused(T2T, {**R, "sharer": "a;b"})
