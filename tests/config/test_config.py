from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import config as configs
from harness.config import RunConfig, build, parse
from harness.config.loading import MAX_BYTES
from harness.errors import UserError

CHANGED: dict[str, Any] = {
    "receiver": "org/receiver",
    "peft": "org/adapter",
    "max_length": 512,
    "sharers": ("org/a", "org/b"),
    "fusers": ("fuser-a", "fuser-b"),
    "self_fuser": "fuser-self",
    "tuned": "adapter",
    "receiver_chat_template": "simple",
    "sharer_chat_template": "own.jinja",
    "trust_remote_code": True,
    "backend": "local-completions",
    "receiver_args": "base_url=http://localhost:8000/v1/completions",
    "sharer_args": "base_url=http://localhost:8001/v1/completions",
    "channels": ("receiver", "c2c:alignment=off:mode=parallel", "t2t:max_new_tokens=64:may_answer:with_options"),
    "controls": ("self", "noise"),
    "tasks": ("openbookqa",),
    "datasets_dir": "data",
    "limit": 5,
    "chat": False,
    "enable_thinking": True,
    "max_new_tokens": 32,
    "gen_kwargs": {"until": ["\n"], "do_sample": False},
    "calibration_samples": 16,
    "seed": 7,
    "device": "cuda",
    "device_map": {"model": 0, "lm_head": "cpu"},
    "tensor_parallel": True,
    "dtype": "bfloat16",
    "attention": "eager",
    "batch_size": 2,
    "max_batch_tokens": 4096,
    "max_error_rate": 0.0,
    "margin": 1.5,
    "latency_samples": 0,
    "latency_warm_up": 1,
    "latency_equal_tokens": 8,
    "job": "nightly 7",
    "output_path": "runs/one",
    "leaderboards_dir": "boards",
    "resume": True,
    "log_samples": False,
    "progress": False,
}
SERVED = ("backend", "receiver_args", "sharer_args")
OWN_ENGINE = {name: value for name, value in CHANGED.items() if name not in (*SERVED, "tensor_parallel")}
ELSEWHERE = {name: CHANGED[name] for name in SERVED}


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        build(parse(text.encode(), "c.yaml"), "c.yaml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("c.yaml")
    return str(caught.value)


def test_every_field_is_classified_described_and_changed_here() -> None:
    assert set(configs.kinds().values()) == {"identity", "runtime"}
    assert configs.kinds().keys() == CHANGED.keys()
    assert all(field.description for field in RunConfig.model_fields.values())


def test_an_unclassified_field_is_found() -> None:
    class Grown(RunConfig):
        surprise: int = 0

    with pytest.raises(TypeError, match="surprise"):
        configs.kinds(Grown)


@pytest.mark.parametrize("values", [{}, OWN_ENGINE, ELSEWHERE, {"tensor_parallel": True}, {"channels": ["receiver"]}])
def test_yaml_round_trip(values: dict[str, Any], tmp_path: Path) -> None:
    config = build(values)
    path = tmp_path / "c.yaml"
    path.write_text(configs.to_yaml(config))
    assert configs.from_yaml(path) == config


@pytest.mark.parametrize("name", CHANGED)
def test_identity_fields_change_the_hash_and_runtime_fields_do_not(name: str) -> None:
    base = RunConfig()
    changed = base.model_copy(update={name: CHANGED[name]})
    differs = [name] if configs.kinds()[name] == "identity" else []
    assert configs.differing(configs.identity(base), configs.identity(changed)) == differs
    assert (configs.identity_hash(base) != configs.identity_hash(changed)) == bool(differs)


def test_extra_identity_takes_part_and_may_not_replace_fields() -> None:
    config = RunConfig()
    one, two = ({"weights": {"receiver": digest}} for digest in ("a", "b"))
    assert configs.identity_hash(config, one) != configs.identity_hash(config, two)
    assert configs.differing(configs.identity(config, one), configs.identity(config)) == ["weights"]
    with pytest.raises(ValueError, match="seed"):
        configs.identity(config, {"seed": 1})


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ({}, {"tuned"}),
        ({"receiver": "r"}, {"sharer", "t2t", "c2c", "tuned"}),
        ({"receiver": "r", "sharers": ["s"]}, {"c2c", "tuned"}),
        ({"receiver": "r", "sharers": ["s"], "fusers": ["f"]}, {"tuned"}),
        ({"receiver": "r", "tuned": "t"}, {"sharer", "t2t", "c2c"}),
    ],
)
def test_a_run_that_names_no_channels_has_all_that_its_models_allow(given: dict[str, Any], lacking: set[str]) -> None:
    found = {*build({"tasks": ["relay_one"], **given}).channels}
    assert {"receiver", "sharer", "t2t", "c2c", "tuned"} - found == lacking


def test_usual_controls_follow_the_channels() -> None:
    assert build({}).controls == ("mismatched", "mean")
    assert build({"channels": "receiver,sharer"}).controls == ()
    assert build({"channels": "t2t", "controls": []}).controls == ()


def test_friendly_spellings() -> None:
    text = b"receiver: r\nsharer: a, b\nfuser: [x, y]\ntask: openbookqa\nmax_error_rate: 1\n"
    config = build(parse(text, "c.yaml"))
    assert (config.sharers, config.fusers, config.tasks) == (("a", "b"), ("x", "y"), ("openbookqa",))
    assert config.max_error_rate == 1.0
    assert build(parse(b"# nothing\n", "c.yaml")) == build({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 3", "unknown key 'batchsize'. Did you mean 'batch_size'?"),
        ("batch_size: eight", "batch_size is 'eight', but has to be a whole number"),
        ("limit: true", "limit is True, but has to be a whole number"),
        ("limit: 0", "limit is 0, but has to be at least 1"),
        ("max_new_tokens: 1.5", "whole number"),
        ("max_error_rate: 1.5", "at most 1"),
        ("max_error_rate: .nan", "finite number"),
        ("seed: -1", "at least 0"),
        ("progress: 1", "true or false"),
        ("receiver: 7", "receiver is 7, but has to be text"),
        ("dtype: fp16", "one of 'auto', 'float32', 'bfloat16', 'float16'"),
        ("device: gpu", "allowed: auto, cpu, cuda, cuda:N"),
        ("tasks: {a: b}", "a list of texts"),
        ("tasks: ['']", "not empty"),
        ("gen_kwargs: 3", "a mapping of settings"),
        ("gen_kwargs: {until: [1]}", "gen_kwargs.until is [1], but has to be text, a number"),
        ("channels: [c2d]", "Did you mean 'c2c'?"),
        ("channels: []", "name at least one"),
        ("controls: maen", "Did you mean 'mean'?"),
        ("tasks: a, b, a", "names 'a' twice"),
        ("sharer: x", "no receiver"),
        ("receiver: r\nchannels: [receiver, t2t]", "need a sharer"),
        ("routed_fraction: 0.25", "routed:share=X"),
        ("receiver: r\nsharer: [s, t]\nfuser: f", "1 for 2 sharers"),
        ("fusers: [f, g]", "2 for 0 sharers"),
        ("receiver: r\nsharer: s\nfuser: f\ncontrols: self", "--self_fuser"),
        ("channels: receiver\ncontrols: mean", "no channel carries any"),
        ("receiver: r\nsharer: s\nfuser: f\nself_fuser: o", "add self to --controls"),
        ("max_new_tokens: 4\ngen_kwargs: {max_gen_toks: 4}", "both set the length"),
        ("latency_equal_tokens: 1", "at least 2"),
        ("resume: true", "--output_path"),
        ("sharer: a\nsharers: b", "keep one of them"),
        ("seed: 1\nseed: 2", "twice"),
        ("seed: &x 1", "line 1 uses a YAML tag or anchor"),
        ("seed: 1\nlimit: !!int 3", "line 2 uses a YAML tag or anchor"),
        ("seed: !!python/object/apply:os.getcwd []", "tag or anchor"),
        ("seed: *x", "tag or anchor"),
        ("gen_kwargs: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("gen_kwargs: " + "[" * 50_000, "nested too deeply"),
        ("- a", "`name: value` lines"),
        ("seed: [", "line 1 is not valid YAML"),
        ("seed: 1\n---\nseed: 2", "not valid YAML"),
        ("? [a]\n: b", "unhashable"),
        ("\0", "not valid YAML"),
        ("datasets_dir: 2024-13-45", "not valid YAML"),
        ("datasets_dir: 2024-12-05", "has to be text"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text: str, message: str) -> None:
    assert message in refused(text)


def test_embedded_pair_takes_a_fuser_of_its_own() -> None:
    assert build({"fusers": ["mine"]}).fusers == ("mine",)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_text("#" * (MAX_BYTES + 1))
    for path, message in ((big, "larger than"), (tmp_path / "none.yaml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(UserError, match=message):
            configs.from_yaml(path)


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 1


TOKENS = st.sampled_from(
    [
        *CHANGED,
        *"{}[]:,-?!&*|>'\"#%@`=\n \t",
        ": ",
        "\n- ",
        "\n  ",
        "<<: ",
        "0b_",
        "1:2",
        "null",
        "off",
        "\ud7ff",
        "\x85",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def only_a_sentence_escapes(content: bytes) -> None:
    try:
        build(parse(content, "c.yaml"), "c.yaml")
    except UserError as error:
        assert len(str(error)) < 500  # noqa: PT017 - most content is valid or not at random


@settings(max_examples=150, deadline=None)
@given(st.lists(TOKENS, max_size=25).map(lambda parts: "".join(parts).encode()) | st.binary(max_size=40))
def test_whatever_the_text_only_a_sentence_escapes(content: bytes) -> None:
    only_a_sentence_escapes(content)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(list(CHANGED)), VALUES, max_size=4))
def test_whatever_the_values_only_a_sentence_escapes(values: dict[str, Any]) -> None:
    only_a_sentence_escapes(yaml.safe_dump(values).encode())


PAIR = {"receiver": "r", "sharers": ["s"], "fusers": ["f"], "tasks": ["relay_one"]}


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({"latency_samples": 0, "latency_warm_up": 7}, "latency_warm_up", "latency_samples is 0"),
        ({"latency_samples": 0, "latency_equal_tokens": 8}, "latency_equal_tokens", "latency_samples is 0"),
        ({"controls": ["closed"], "calibration_samples": 9}, "calibration_samples", "no control takes the mean"),
        ({"channels": ["receiver", "t2t"]}, "fusers", "no channel needs a fuser"),
        (
            {"sharers": [], "fusers": [], "channels": ["receiver"], "sharer_chat_template": "simple"},
            "sharer_chat_template",
            "there is no sharer",
        ),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(changes: dict[str, Any], name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"{name} would change nothing, since {reason}.*; leave it out"):
        build({**PAIR, **changes})
    build({**PAIR, **changes, "output_path": "there", "resume": True})
