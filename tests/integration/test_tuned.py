import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import cli
from harness.channels.single import Single
from harness.config import build
from harness.errors import UserError
from harness.evaluation.fingerprint import model_info
from harness.evaluation.run import run
from harness.inference.generate import score
from harness.inference.types import CallStats, Query
from harness.models.chat import user_turn
from harness.models.loading import load
from harness.models.reference import parse_reference
from harness.records import load_run
from harness.results import effects
from harness.training.lora import insert_adapter
from harness.training.recipe import build as build_recipe
from tests.support.tiny import GOLDEN, OURS

TEXT = "t2t:max_new_tokens=2"
RECEIVER = "tasks/relay/pair/receiver"
WEIGHTS = "adapter_model.safetensors"


def adapted(strength, **changes):
    """The receiver with an adapter inside that does something where `strength` is not 0."""
    recipe = build_recipe({"method": "lora", "receiver": RECEIVER, "output_path": "x", "lora_rank": 4, **changes})
    adapter = insert_adapter(load(RECEIVER, device="cpu"), recipe)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in adapter.parameters:
            value.add_(strength * torch.randn(value.shape, generator=generator))
    return adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tuned") / "adapter"
    adapted(0.05, lora_layers="1-2").save(made, {"receiver": RECEIVER, "recipe": {"seed": 3}, "steps": 9})
    return made


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """An adapter as it is before training."""
    made = tmp_path_factory.mktemp("idle") / "adapter"
    adapted(0.0).save(made, {})
    return made


def loglikelihoods(lm):
    queries, work, alone = (
        [Query(user_turn("Where does Abel live?")), Query(user_turn("Who?"))],
        CallStats(),
        Single(lm),
    )
    with torch.inference_mode():
        context = alone.receive(queries, alone.send(queries, work), work)
        return [one.loglikelihood for row in score(context, [[(5, 6), (7,)]] * 2, work) for one in row]


def test_a_merged_adapter_answers_as_the_model_that_was_trained(folder):
    merged = load(str(folder), device="cpu")
    trained, plain = adapted(0.05, lora_layers="1-2").lm, load(RECEIVER, device="cpu")
    assert loglikelihoods(merged) == pytest.approx(loglikelihoods(trained), rel=1e-5)
    assert loglikelihoods(merged) != pytest.approx(loglikelihoods(plain), rel=1e-2)
    assert not any("lora" in type(module).__module__ for module in merged.model.modules())
    assert not any(value.requires_grad for value in merged.model.parameters())


def test_an_adapter_under_lm_eval_is_merged_into_the_model_that_is_named(folder):
    from harness.lm_eval_bridge.model import SingleLM

    lm = SingleLM(pretrained=RECEIVER, peft=str(folder), device="cpu")
    assert loglikelihoods(lm.channel.answers) == loglikelihoods(load(str(folder), device="cpu"))
    info = lm.get_model_info()
    assert (info["model_name"], info["models"][0]["adapter_parameters"] > 0) == (str(folder), True)


def test_its_identity_is_that_of_adapter_and_base(folder, idle):
    ours, other, base = (model_info("tuned", load(str(path), device="cpu")) for path in (folder, idle, RECEIVER))
    assert len({ours.fingerprint, other.fingerprint, base.fingerprint}) == 3
    tensors = load_file(folder / WEIGHTS).values()
    assert ours.adapter_parameters == sum(value.numel() for value in tensors)
    assert (ours.training, base.training) == ({"seed": 3, "steps": 9}, {})
    assert (base.adapter_parameters, ours.parameters, ours.reference) == (0, base.parameters, str(folder))


def test_receiver_and_tuned_stand_in_one_table_with_their_difference(folder, tmp_path, capsys):
    given = {"receiver": RECEIVER, "channels": "receiver", "tuned": str(folder), "tasks": ["relay_one"]}
    small = {"limit": 12, "latency_samples": 2, "device": "cpu", "progress": False}
    config = build({**given, **small, "output_path": str(tmp_path / "run")})
    assert config.channels == ("receiver", "tuned")
    path = run(config)
    assert cli.main(["report", str(path), "--all"]) == 0
    assert "tuned" in capsys.readouterr().out.rpartition("relay_one: 12 questions")[2]
    loaded = load_run(path)
    assert {sample.channel for sample in loaded.samples} == {"receiver", "tuned"}
    assert [(e.channel, e.title) for e in effects(loaded.samples)] == [("tuned", "vs receiver")]
    roles = {model.role: model for model in loaded.record.models}
    assert roles.keys() == {"receiver", "tuned"}
    assert roles["tuned"].fingerprint != roles["receiver"].fingerprint
    assert next(row for row in loaded.record.results if row.channel == "tuned").variant.startswith("adapter of ")


def test_every_channel_with_a_message_is_compared_with_the_tuned_receiver(idle, tmp_path):
    given = {"receiver": RECEIVER, "sharers": [RECEIVER], "channels": f"receiver,{TEXT}", "tuned": str(idle)}
    small = {"limit": 6, "latency_samples": 0, "device": "cpu", "progress": False, "controls": []}
    path = run(build({**given, **small, "tasks": ["relay_one"], "output_path": str(tmp_path / "run")}))
    samples = load_run(path).samples
    found = [(e.channel, e.title) for e in effects(samples)]
    assert found == [("tuned", "vs receiver"), (TEXT, "vs receiver"), (TEXT, "vs tuned")]
    answers = {c: {s.doc_id: (s.predicted, s.text) for s in samples if s.channel == c} for c in ("receiver", "tuned")}
    assert answers["receiver"] == answers["tuned"]  # an adapter that was never trained changes nothing


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"channels": "receiver,tuned"}, "Channel tuned needs the fine-tuned receiver; give --tuned"),
        ({"tuned": "x", "backend": "hf"}, "channels tuned cannot run through it"),
    ],
)
def test_what_contradicts_itself_is_one_sentence(values, said):
    with pytest.raises(UserError, match=said):
        build({"receiver": RECEIVER, "tasks": ["relay"], **values})


def copied(folder, tmp_path, **changes):
    where = tmp_path / "adapter"
    shutil.copytree(folder, where)
    config = json.loads((where / "adapter_config.json").read_text())
    (where / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return where


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": "/nowhere/model"}, "needs its base model. Model '/nowhere/model': no such folder"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"peft_type": "PREFIX_TUNING"}, "only LORA adapters can be merged"),
        ({"r": 8}, "another model: .* is 4x128 in the adapter and 8x128 in the base model"),
        ({"target_modules": ["c_attn"]}, "does not fit its base model: .*c_attn"),
        ({"layers_to_transform": [0]}, "was made for another model: .* is absent in the adapter"),
        ({"r": "four"}, "does not fit its base model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_sentence(folder, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        load(str(copied(folder, tmp_path, **changes)), device="cpu")


def test_the_runs_receiver_replaces_the_base_that_is_named(folder, tmp_path):
    where = str(copied(folder, tmp_path, base_model_name_or_path="/nowhere/model"))
    assert loglikelihoods(load(parse_reference(where, RECEIVER), device="cpu")) == loglikelihoods(
        load(str(folder), device="cpu")
    )
    with pytest.raises(UserError, match="was made for another model|does not fit its base model"):
        load(parse_reference(where, str(GOLDEN / OURS)), device="cpu")
    with pytest.raises(UserError, match="is an adapter itself"):
        parse_reference(where, base=str(folder))


@pytest.mark.parametrize("text", ["{", "[]"])
@pytest.mark.parametrize("base", [None, RECEIVER])
def test_a_damaged_configuration_is_one_sentence(folder, tmp_path, text, base):
    where = copied(folder, tmp_path)
    (where / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=r"adapter_config\.json cannot be read .* restore the file"):
        load(parse_reference(str(where), base), device="cpu")


@pytest.mark.parametrize("what", ["torn", "absent", "nan"])
def test_damaged_weights_are_one_sentence(folder, tmp_path, what):
    where = copied(folder, tmp_path)
    file = where / WEIGHTS
    if what == "torn":
        file.write_bytes(file.read_bytes()[:100])
    elif what == "absent":
        file.unlink()
        torch.save({}, where / "adapter_model.bin")
    else:
        save_file({name: value * float("nan") for name, value in load_file(file).items()}, file)
    with pytest.raises(UserError, match="cannot be read|are not finite"):
        load(str(where), device="cpu")


def test_a_model_of_another_vocabulary_is_refused(tmp_path):
    from harness.evaluation.setup import load_cast
    from tests.support.tiny import random_lm

    other = random_lm("qwen3", seed=1)
    for part in (other.model, other.tokenizer):
        part.save_pretrained(tmp_path / "other")
    given = {"receiver": RECEIVER, "channels": "receiver", "tuned": str(tmp_path / "other"), "tasks": ["relay"]}
    with pytest.raises(UserError, match="whose tokenizer is not that of the receiver"):
        load_cast(build({**given, "device": "cpu", "chat": False}))
