"""A second form of fuser trains, is saved and loaded, crosses and is timed by its registration alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from harness.bench.candidates import Task, make_arms
from harness.bench.model_shapes import FuserWidths, read_pair
from harness.bench.synthetic_pair import build_pair, questions
from harness.channels.c2c import CacheToCache, Link, link_sharer
from harness.errors import UserError
from harness.fusers import registry
from harness.fusers.checkpoint import load, save, save_official
from harness.fusers.interface import FuserModule, config_of
from harness.fusers.layer_mapping import pair_shapes
from harness.fusers.registry import FUSERS, FuserEntry, parse_form
from harness.inference.types import CallStats, Query
from harness.models.chat import user_turn
from harness.models.lm import KVShape, kv_shape
from harness.models.loading import load as load_model
from harness.training.main import train
from tests.support.low_rank import LowRank
from tests.support.tiny import random_fuser, shared_lm
from tests.support.training_runs import chats_on_disk, logged, pair_on_disk, recipe

ENTRY = FuserEntry("low_rank", "keys and values of a layer through one bottleneck", f"{LowRank.__module__}:LowRank")
# What `tests.support.training_runs.values` says of the C2C form alone.
OTHER_FORM = {"fuser_form": "low_rank:rank=3", "hidden_dim": 1024, "intermediate_dim": 1024}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUSERS._entries, ENTRY.name, ENTRY)


def adapter(rank: int = 4) -> FuserModule:
    torch.manual_seed(0)
    receiver, sharer = shared_lm("qwen3"), shared_lm("llama", seed=1)
    shapes = pair_shapes(kv_shape(receiver.config), kv_shape(sharer.config))
    return ENTRY.load()(config_of(LowRank, shapes, {"rank": rank})).eval()


def logits(channel: CacheToCache, text: str = "hello there") -> torch.Tensor:
    with torch.inference_mode():
        queries, work = [Query(user_turn(text))], CallStats()
        return channel.receive(queries, channel.send(queries, work), work).logits


def test_it_trains_is_loaded_and_crosses(tmp_path: Path) -> None:
    pair_on_disk(tmp_path)
    chats_on_disk(tmp_path)
    out = tmp_path / "out"
    train(recipe(tmp_path, out, steps=2, gradient_checkpointing=True, **OTHER_FORM))
    assert len(logged(out)) == 2
    header = json.loads((out / "fuser" / "fuser.json").read_text())
    assert (header["form"], header["config"]["rank"]) == ("low_rank", 3)
    fuser = load(out / "fuser")
    receiver, sharer = (load_model(str(tmp_path / role), device="cpu") for role in ("receiver", "sharer"))
    channel = CacheToCache(receiver, (Link(sharer, fuser),))
    assert not torch.allclose(logits(channel), logits(channel.closed()))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    fuser = adapter()
    save(fuser, tmp_path)
    found = load(tmp_path)
    assert isinstance(found, LowRank)
    assert found.config == fuser.config
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in fuser.state_dict().items())


def test_a_fuser_without_a_name_of_its_form_is_one_of_c2c(tmp_path: Path) -> None:
    fuser = random_fuser(shared_lm("qwen3"), shared_lm("llama", seed=1))
    save(fuser, tmp_path)
    header = json.loads((tmp_path / "fuser.json").read_text())
    assert header.pop("form") == "c2c"
    (tmp_path / "fuser.json").write_text(json.dumps({**header, "schema_version": 1}))
    assert load(tmp_path).config == fuser.config


def test_a_form_that_is_not_installed_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    save(adapter(), tmp_path)
    header = json.loads((tmp_path / "fuser.json").read_text())
    (tmp_path / "fuser.json").write_text(json.dumps({**header, "form": "low_rang"}))
    with pytest.raises(UserError, match=r"low_rang.*low_rank"):
        load(tmp_path)


def test_it_crosses_by_chosen_layers_and_only_they_are_charged() -> None:
    receiver, sharer = shared_lm("qwen3"), shared_lm("llama", seed=1)
    fuser = adapter()
    whole = CacheToCache(receiver, (Link(sharer, fuser),))
    part = CacheToCache(receiver, (link_sharer(sharer, fuser, "last1"),))
    queries = [Query(user_turn("hello there"))]
    with torch.inference_mode():
        sizes = [channel.send(queries, CallStats()).payload_bytes[0] for channel in (whole, part)]
    assert sizes[0] == 3 * sizes[1]
    assert not torch.allclose(logits(whole), logits(part))


def test_it_is_timed_with_a_floor() -> None:
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    pair = build_pair(read_pair("tiny"), torch.float32, cpu, FuserWidths(8, 8), "low_rank:rank=2")
    asked = questions(pair, 1, 20, (0, 0), random.Random(0))
    with torch.inference_mode():
        reading = make_arms(pair, ["c2c"], 4)["c2c"](asked, Task(2))
    (fusion,) = reading.calls["fusion"]
    config = pair.fuser.config
    wide, narrow = 2 * (config.sharer_dim + config.receiver_dim), 2 * config.receiver_dim
    assert fusion.flops == 2 * pair.fuser.layers * 19 * 2 * (wide + narrow)


def test_what_a_form_does_not_know_is_refused(tmp_path: Path) -> None:
    fuser = adapter()
    with pytest.raises(UserError, match=r"low_rank.*does not rank its layers"):
        link_sharer(shared_lm("llama", seed=1), fuser, "top2")
    with pytest.raises(UserError, match="keys and values together"):
        fuser.keep_kinds((0,))
    with pytest.raises(UserError, match="standard_rows"):
        fuser.standardise((), torch.zeros(1), torch.zeros(1))
    with pytest.raises(UserError, match="no setting 'initial_gate'"):
        fuser.start(initial_gate=1.0)
    with pytest.raises(UserError, match="C2C fusers alone"):
        save_official(fuser, tmp_path)
    with pytest.raises(UserError, match=r"low_rank.*width"):
        config_of(LowRank, pair_shapes(KVShape(2, 1, 4), KVShape(2, 1, 4)), {"width": 3})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fuser_form": "low_rank", "initial_gate": 2.0}, r"low_rank does not use .*initial_gate"),
        ({"fuser_form": "low_rang"}, r"low_rang.*low_rank"),
        ({"fuser_form": "low_rank:rank"}, "option=value"),
    ],
)
def test_recipes_that_another_form_does_not_fit_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe(Path("x"), Path("y"), **{**OTHER_FORM, **changes})


def test_a_name_that_is_not_the_class_own_is_refused() -> None:
    with pytest.raises(UserError, match="use one name"):
        FuserEntry("other", "", LowRank).load()


def test_options_of_a_form_are_read_as_their_types() -> None:
    entry, options = parse_form("low_rank:rank=8")
    assert (entry, options) == (ENTRY, {"rank": 8})
    assert registry.C2C in FUSERS.names()
