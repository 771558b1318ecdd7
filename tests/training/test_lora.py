import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from harness.channels.single import Single
from harness.errors import UserError
from harness.inference.generate import score
from harness.inference.types import CallStats, Query
from harness.models.loading import load
from harness.training.dataloader import Batches
from harness.training.lora import response_loss
from harness.training.main import train
from harness.training.prompt_cache import weights_sha256
from harness.training.recipe import build, identity
from harness.training.setup import open_session
from tests.support.training_runs import chats_on_disk, logged, pair_on_disk, stopping_at
from tests.support.training_runs import recipe as recipe_of_pair
from tests.training.test_processes import launched

RECEIVER = "tasks/relay/pair/receiver"
ADAPTER = Path("adapter") / "adapter_model.safetensors"


def recipe(out, **changes):
    short = {
        **{"method": "lora", "receiver": RECEIVER, "data": "tasks/relay/test.jsonl"},
        **{"prompt_of": "relay_one", "output_path": str(out), "steps": 6, "global_batch": 8},
        **{"micro_batch": 4, "learning_rate": 3e-3, "save_every": 2, "log_every": 1, "lora_rank": 4},
        **{"device": "cpu", "progress": False},
    }
    return build(short | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    return train(recipe(tmp_path_factory.mktemp("whole")))


def shaken(session):
    """The objective with an adapter that does something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in session.objective.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return session.objective


def some_lessons(session):
    """Rows of different lengths."""
    micros = Batches(session.recipe, session.corpus, session.objective.channel).of(0)
    return [one for micro in micros for one in micro.lessons], [row for micro in micros for row in micro.rows]


def test_the_loss_is_the_loglikelihood_of_the_engine(tmp_path):
    chats = {"data": str(chats_on_disk(tmp_path)), "prompt_of": None}
    session = open_session(recipe(tmp_path, lora_layers="1-2", **chats))
    objective = shaken(session)
    lessons, rows = some_lessons(session)
    assert len({len(one.ids[0]) for one in lessons}) > 1
    alone, expected, lm = Single(objective.adapter.lm), 0.0, objective.adapter.lm
    objective.eval()
    with torch.inference_mode():
        for row, one in zip(rows, lessons, strict=True):
            queries, work = [Query(session.corpus[row].conversation)], CallStats()
            context = alone.receive(queries, alone.send(queries, work), work)
            expected -= score(context, [[one.response]], work)[0][0].loglikelihood
    assert float(response_loss(lm, lessons).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(objective.evaluated_loss(lessons).detach()) == pytest.approx(expected, rel=1e-5)


def test_a_new_adapter_changes_nothing(tmp_path):
    session = open_session(recipe(tmp_path))
    lessons, _ = some_lessons(session)
    plain = response_loss(load(RECEIVER, device="cpu"), lessons)
    assert torch.equal(session.objective.evaluated_loss(lessons).detach(), plain)


def test_the_vocabulary_is_projected_for_the_responses_alone(tmp_path):
    session = open_session(recipe(tmp_path))
    lessons, _ = some_lessons(session)
    seen = []
    head = session.models[0].model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, output: seen.append(tuple(output.shape)))
    session.objective(lessons)
    assert seen == [(sum(len(one.response) for one in lessons), head.out_features)]


def test_an_adapter_inside_an_adapter_is_refused(tmp_path, whole):
    with pytest.raises(UserError, match="is an adapter itself"):
        open_session(recipe(tmp_path, receiver=str(whole / "adapter")))


@pytest.mark.parametrize("recompute", [False, True])
def test_only_the_adapter_moves_and_the_receiver_is_what_it_was(tmp_path, recompute):
    from harness.training.main import _loop

    session = open_session(recipe(tmp_path, gradient_checkpointing=recompute, lora_layers="1-2", steps=3))
    lm, before = session.models[0], weights_sha256(session.models[0])
    assert before == weights_sha256(load(RECEIVER, device="cpu"))
    moving = [value.detach().clone() for value in session.objective.parameters()]
    _loop(session, [before]).run()
    assert weights_sha256(lm) == before
    assert all(value.grad is None for value in lm.model.parameters() if not value.requires_grad)
    assert not any(torch.equal(a, b) for a, b in zip(moving, session.objective.parameters(), strict=True))
    assert not lm.model.training


def test_recomputation_gives_the_same_bits(tmp_path, whole):
    train(recipe(tmp_path, gradient_checkpointing=True))
    assert_same_bits(tmp_path, whole)


def assert_same_bits(one, other):
    ours, theirs = load_file(one / ADAPTER), load_file(other / ADAPTER)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_training_leaves_a_peft_folder_with_its_origin(whole):
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(whole / "adapter"))
    assert (config.r, config.base_model_name_or_path, config.layers_to_transform) == (4, RECEIVER, None)
    with safe_open(whole / ADAPTER, "pt") as file:
        provenance = json.loads(file.metadata()["provenance"])
    tensors = load_file(whole / ADAPTER).values()
    count = sum(value.numel() for value in tensors)
    assert {value.dtype for value in tensors} == {torch.float32}
    assert (provenance["step"], provenance["recipe"]["lora_rank"], len(provenance["weights_sha256"])) == (6, 4, 1)
    assert provenance["trained_parameters"] == count == 4 * widths(load(RECEIVER, device="cpu"))


def widths(lm):
    """Sum over the decoder's linear layers of inputs and outputs: what one rank costs."""
    linear = [m for m in lm.model.base_model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 7 * lm.n_layers
    return sum(m.in_features + m.out_features for m in linear)


def test_products_take_the_models_format_and_master_weights_stay_wide(tmp_path):
    session = open_session(recipe(tmp_path, dtype="bfloat16"))
    assert {value.dtype for value in session.objective.parameters()} == {torch.float32}
    layer = session.models[0].model.base_model.layers[0].self_attn.q_proj
    seen = []
    layer.lora_B["default"].register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    session.objective(some_lessons(session)[0]).backward()
    assert seen == [torch.bfloat16]
    assert {value.grad.dtype for value in session.objective.parameters()} == {torch.float32}


def test_a_run_that_stops_and_resumes_ends_in_the_same_bits(tmp_path, whole):
    with stopping_at(3):
        train(recipe(tmp_path))
    assert not (tmp_path / "adapter").exists()
    train(recipe(tmp_path, resume=True))
    assert_same_bits(tmp_path, whole)
    assert logged(tmp_path) == logged(whole)
    with pytest.raises(UserError, match="was trained with another lora_rank"):
        train(recipe(tmp_path, resume=True, lora_rank=2))


def test_training_lowers_the_loss_and_keeps_the_best(tmp_path):
    train(recipe(tmp_path, steps=40, global_batch=32, micro_batch=32, held_out_rows=32, validate_every=20))
    loss = logged(tmp_path)
    assert sum(loss[-5:]) < 0.8 * sum(loss[:5])
    assert len(logged(tmp_path, "held_out_loss")) == 2
    assert (tmp_path / "best" / ADAPTER).is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sharers": ["s"]}, "Method lora trains the receiver alone, but sharers names s; leave --sharer out"),
        ({"hidden_dim": 64, "official": True}, "Method lora does not use hidden_dim, official; leave it out"),
        ({"cache_messages": "memory"}, "Method lora does not use cache_messages"),
        ({"method": "fuser", "sharers": ["s"]}, "Method fuser does not use lora_rank"),
        ({"method": "fuser"}, "sharers is missing"),
        ({"method": "lore", "sharers": ["s"]}, "method is 'lore'"),
        ({"lora_rank": 0}, "lora_rank is"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        recipe(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_layers": "0-3"}, "lora_layers is '0-3'; give layers from 0 to 2"),
        ({"lora_targets": ["q_prj"]}, "Unknown module in lora_targets 'q_prj'. Did you mean 'q_proj'"),
    ],
)
def test_what_the_receiver_does_not_have_is_one_sentence(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        open_session(recipe(tmp_path, **changes))


def test_what_a_method_does_not_use_takes_no_part_in_its_identity(tmp_path):
    assert {"lora_rank", "method", "receiver"} <= identity(recipe(tmp_path)).keys()
    assert not {"hidden_dim", "dropout", "alignment"} & identity(recipe(tmp_path)).keys()


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_accumulation(tmp_path):
    pair_on_disk(tmp_path)
    chats_on_disk(tmp_path, rows=61)
    alone = {"method": "lora", "sharers": [], "hidden_dim": 1024, "intermediate_dim": 1024, "lora_dropout": 0.1}
    longer = {**alone, "steps": 20, "held_out_rows": 5}
    one, two = tmp_path / "one", tmp_path / "two"
    train(recipe_of_pair(tmp_path, one, **longer))
    run = launched(tmp_path, two, 2, **longer)
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(logged(one)) == 20
    assert logged(two) == pytest.approx(logged(one), rel=1e-4)
    assert logged(two, "held_out_loss") == pytest.approx(logged(one, "held_out_loss"), rel=1e-4)
