"""What is given as an object is known by its contents, and what cannot be used is refused in a sentence."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from transformers import AutoModel

import harness
from harness.api.given import Given
from harness.errors import UserError
from harness.models.in_memory import lm_of
from harness.models.reference import parse_reference
from harness.records.schema import open_pins
from tests.api.conftest import PAIR, SETTINGS, loaded

ASKED: dict[str, Any] = {"channels": ["receiver"], "tasks": SETTINGS["tasks"], "limit": 2, "latency_samples": 0}


def test_equal_contents_have_one_reference_and_a_changed_weight_has_another(receiver: Any) -> None:
    model, tokenizer = receiver
    first, again = lm_of(model, tokenizer).reference, lm_of(*loaded("receiver")).reference
    assert first == again
    assert first.text == f"in-memory:receiver@{first.digest[:12]}"
    changed = copy.deepcopy(model)
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-3
    assert lm_of(changed, tokenizer).reference.digest != first.digest
    assert lm_of(copy.deepcopy(model).bfloat16(), tokenizer).reference.digest != first.digest


@pytest.mark.parametrize("change", ["template", "token", "theta", "stop"])
def test_whatever_changes_an_answer_changes_the_reference(receiver: Any, change: str) -> None:
    model, tokenizer = copy.deepcopy(receiver)
    before = lm_of(model, tokenizer).reference
    if change == "template":
        tokenizer.chat_template += " "
    elif change == "token":
        tokenizer.add_tokens(["zzz"])
        model.resize_token_embeddings(len(tokenizer))
    elif change == "theta":
        model.config.rms_norm_eps *= 2
    else:
        model.generation_config.eos_token_id = [1, 2]
    assert lm_of(model, tokenizer).reference.digest != before.digest


def test_how_a_tokenizer_was_used_and_where_a_model_was_read_change_nothing(receiver: Any, tmp_path: Any) -> None:
    model, tokenizer = copy.deepcopy(receiver)
    before = lm_of(model, tokenizer).reference
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=4)
    model.config._name_or_path = "elsewhere/model"
    after = lm_of(model, tokenizer).reference
    assert (after.digest, after.text) == (before.digest, f"in-memory:elsewhere/model@{before.digest[:12]}")


def test_a_run_with_other_weights_has_another_identity_and_its_board_says_so(receiver: Any) -> None:
    changed = copy.deepcopy(receiver)
    with torch.no_grad():
        changed[0].lm_head.weight.mul_(-1)
    first, second = (harness.evaluate(pair, **ASKED).run.record for pair in (receiver, changed))
    assert first.identity != second.identity
    assert first.models[0].fingerprint != second.models[0].fingerprint
    assert first.models[0].reference != second.models[0].reference
    assert open_pins(first) == [f"{first.models[0].reference} (an object in memory)"]


def test_fusers_are_known_by_their_contents(fuser: Any) -> None:
    changed = copy.deepcopy(fuser)
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-3
    names = [Given().named({"fusers": one})["fusers"] for one in (fuser, copy.deepcopy(fuser), changed)]
    assert names[0] == names[1] != names[2]
    assert re.fullmatch(r"in-memory:c2c@[0-9a-f]{12}", names[0][0])


class Odd:
    """Nothing that the harness knows."""


def refused(**asked: Any) -> str:
    with pytest.raises(UserError) as error:
        harness.evaluate(**{**ASKED, **asked})
    return str(error.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"receiver": Odd()}, "receiver is a Odd; give a name, a folder, or the pair"),
        ({"receiver": (Odd(), Odd())}, "The model is a Odd; give a causal model of transformers"),
        ({"fuser": Odd()}, "fusers is a Odd; give a folder, a name or a loaded fuser"),
        ({"receivr": "x"}, "unknown key 'receivr'. Did you mean 'receiver'?"),
        ({"sharer": "x", "sharers": "y"}, "gives both"),
        ({"t2t_tokens": 3}, "write t2t:max_new_tokens=N in --channels"),
        ({"limit": 0}, "limit is 0, but has to be at least 1"),
        ({"tasks": ["no_such_task"]}, "no_such_task"),
        ({"tasks": 5}, "tasks is 5, but has to be a list of texts"),
        ({"channels": [5]}, "channels"),
        ({"receiver": "in-memory:receiver@0123456789ab"}, "was an object in memory"),
        ({"fuser": "in-memory:c2c@0123456789ab", "channels": ["c2c"]}, "Fuser 'in-memory:c2c@0123456789ab'"),
        ({"receiver": str(PAIR / "receiver"), "tasks": None}, "No task is given"),
        ({"tensor_parallel": True}, "use torchrun"),
        ({"plugin": "no.such.module"}, "Plug-in 'no.such.module' cannot be imported"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(asked: dict[str, Any], said: str) -> None:
    assert said in refused(**asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16', but in-memory:receiver"),
        ({"attention": "eager"}, "attention is 'eager', but in-memory:receiver"),
        ({"device_map": "auto"}, "device_map says how models are read from files"),
        ({"trust_remote_code": True}, "trust_remote_code says how models are read"),
        ({"peft": "adapter", "sharer": "org/x"}, "give the merged model itself"),
        ({"backend": "vllm"}, "loads models by itself; name them"),
        ({"max_length": 10**6}, "max_length is 1000000, but the context of 'in-memory:receiver"),
    ],
)
def test_a_setting_that_a_loaded_model_contradicts_is_refused(receiver: Any, asked: dict[str, Any], said: str) -> None:
    assert said in refused(receiver=receiver, **asked)


def test_settings_that_a_loaded_model_agrees_with_are_taken(receiver: Any) -> None:
    asked = {"receiver": receiver, "dtype": "float32", "device": "cpu", "attention": "sdpa"}
    assert Given().named(asked)["dtype"] == "float32"


def test_a_model_without_its_tokenizer_and_a_headless_one_are_refused(receiver: Any) -> None:
    assert "give a name, a folder, or the pair" in refused(receiver=receiver[0])
    assert "The tokenizer is a Odd" in refused(receiver=(receiver[0], Odd()))
    headless = AutoModel.from_pretrained(PAIR / "receiver")
    assert "predicts no tokens; give its causal form" in refused(receiver=(headless, receiver[1]))


def test_a_template_of_the_runs_own_reaches_a_loaded_model(receiver: Any, tmp_path: Any) -> None:
    pair, template = (receiver[0], copy.deepcopy(receiver[1])), tmp_path / "own.jinja"
    template.write_text(pair[1].chat_template)
    pair[1].chat_template = None
    assert "has no chat template" in refused(receiver=pair)
    assert harness.evaluate(pair, receiver_chat_template=template, **ASKED).run.samples
    assert pair[1].chat_template is None


def test_a_reference_of_memory_is_no_hub_id() -> None:
    with pytest.raises(UserError, match="was an object in memory"):
        parse_reference("in-memory:org/name@0123456789ab")
