"""Models larger than one device: the same answers wherever layers lie, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.channels.c2c import CacheToCache, Link
from harness.channels.interface import Channel
from harness.channels.single import Single
from harness.channels.t2t import TextToText, TextVariant
from harness.config import build
from harness.errors import UserError
from harness.evaluation.run import run
from harness.evaluation.setup import fitting_fuser
from harness.fusers.checkpoint import load as load_fuser
from harness.inference import forward
from harness.inference.generate import first_non_finite, generate, score
from harness.inference.kv_cache import KVBuffer, SplitBuffer, SpreadBuffer
from harness.inference.types import CallStats, Clock, Context, Query
from harness.models.lm import LM, check_placed
from harness.models.loading import load
from harness.paths import PAIR
from harness.records.journal import load_run
from tests.support.fake_devices import CPU, FIRST, SECOND, FakeDevices, device_of, put, spread
from tests.support.processes import ended, forked
from tests.support.tiny import FOREIGN, OURS, fused, random_fuser, random_lm
from tests.support.work import query

REST = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")


def asked() -> list[Query]:
    return [query("Why?"), query("What is it then, x y z?")]


def answers(channel: Channel) -> tuple[Context, Tensor, list[tuple[int, ...]], list[float]]:
    """A context, its logits, what is written from it (rows end at different times) and how options score."""
    with torch.inference_mode():
        work, queries = CallStats(), asked()
        context = channel.receive(queries, channel.send(queries, work), work)
        logits = context.logits.clone()
        options = [[(7, 8, 9), (9, 8)], [(5,), (7, 6)]]
        scored = [s.loglikelihood for row in score(context, options, work) for s in row]
        again = channel.receive(queries, channel.send(queries, work), work)
        written = generate(again, 40, [("a",), ()], work)
        return context, logits, [w.tokens for w in written], scored


def placed(lm: LM, devices: list[torch.device]) -> LM:
    spread(lm, devices)
    return replace(lm, device=devices[0])


def models(words: str) -> tuple[LM, LM]:
    return random_lm("qwen3", seed=1), random_lm("llama", seed=2, words=words)


def channels(receiver: LM, sharer: LM) -> dict[str, Channel]:
    return {
        "receiver": Single(receiver),
        "t2t": TextToText(receiver, sharer, TextVariant(max_new_tokens=5)),
        "c2c": fused(receiver, sharer),
        "parallel": fused(receiver, sharer, sharer, mode="parallel"),
    }


@pytest.mark.parametrize("words", [OURS, FOREIGN])
@pytest.mark.parametrize("name", ["receiver", "t2t", "c2c", "parallel"])
def test_layers_on_two_devices_give_the_answers_of_one(name: str, words: str) -> None:
    _, *expected = answers(channels(*models(words))[name])
    receiver, sharer = models(words)
    # A model never runs on a device that another of its layers is on; the sharer starts where the receiver does not.
    channel = channels(placed(receiver, [FIRST, SECOND]), placed(sharer, [SECOND, FIRST]))[name]
    if isinstance(channel, CacheToCache):
        for link in channel.links:
            put(link.fuser, FIRST)
    with FakeDevices() as mode:
        context, *found = answers(channel)
    assert isinstance(context.buffer, SpreadBuffer)
    assert [device_of(part) for part in context.buffer.parts if part is not None] == [FIRST, SECOND, FIRST]
    assert torch.equal(found[0], expected[0])
    assert found[1:] == expected[1:]
    assert mode.moves > 0


def test_a_cache_in_one_allocation_cannot_serve_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "SpreadBuffer", KVBuffer)
    receiver, _ = models(OURS)
    channel = Single(placed(receiver, [FIRST, SECOND]))
    with FakeDevices(), pytest.raises(RuntimeError, match="over devices"):
        answers(channel)


def filled(kind: type[KVBuffer]) -> KVBuffer:
    buffer = kind(2, 3, CPU, 4)
    generator = torch.Generator().manual_seed(0)
    for new in (3, 2):
        real = torch.ones(2, new, dtype=torch.bool)
        buffer.open(torch.zeros(2, new, dtype=torch.long), real, None, dense=True)
        for layer in range(3):
            buffer.write(layer, *torch.randn(2, 2, 2, new, 4, generator=generator))
    return buffer


def test_a_spread_cache_does_everything_that_one_allocation_does() -> None:
    kind, layer = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])
    rows, columns = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 3])
    told = []
    for buffer in (filled(KVBuffer), filled(SpreadBuffer)):
        values = torch.arange(3 * 3 * 8.0).reshape(3, 3, 8)
        before = buffer.gather(kind, layer, rows, columns)
        buffer.add(kind, layer, rows, columns, values)
        after = buffer.gather(kind, layer, rows, columns)
        size, entry = buffer.nbytes, buffer.entry(1, 1)
        buffer.keep_rows(torch.tensor([1]))
        kept = buffer.entry(0, 2)
        assert entry is not None
        assert kept is not None
        told.append((before, after, entry, kept, torch.tensor(size), torch.tensor(buffer.capacity)))
    assert all(torch.equal(a, b) for a, b in zip(*told, strict=True))
    assert told[0][3].shape == (1, 2, 5, 4)


@pytest.mark.parametrize("written", [True, False])
def test_a_copy_of_a_spread_cache_has_memory_of_its_own(written: bool) -> None:
    buffer = filled(SpreadBuffer) if written else SpreadBuffer(2, 3, CPU, 4)
    made = buffer.copied()
    before = buffer.entry(0, 1)
    before = before if before is None else before.clone()
    made.open(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1, dtype=torch.bool), None, dense=True)
    for layer in range(3):
        made.view.layers[layer].update(*torch.zeros(2, 2, 2, 1, 4))
    index = torch.tensor([0])
    made.put(index, index + 1, index, index, torch.full((1, 1, 8), 7.0))
    after = buffer.entry(0, 1)
    assert isinstance(made, SpreadBuffer)
    assert made.length == buffer.length + 1
    assert (before is None and after is None) if not written else torch.equal(before, after)


def test_numbers_that_are_not_finite_are_found_on_every_device() -> None:
    buffer = filled(SpreadBuffer)
    assert "after the last layer" in first_non_finite(buffer)
    assert isinstance(buffer, SpreadBuffer)
    assert buffer.parts[1] is not None
    buffer.parts[1][1, 0, 0, 2, 0] = torch.inf
    assert "V of layer 1" in first_non_finite(buffer)


def test_an_empty_spread_cache_holds_nothing() -> None:
    assert SpreadBuffer(1, 2, CPU, 4).nbytes == 0
    assert SpreadBuffer(1, 2, CPU, 4).entry(0, 0) is None


@pytest.mark.parametrize(
    ("layers", "entry"), [("disk", "cpu"), ("cpu", "disk"), ("disk", "disk")], ids=["layers", "embedding", "both"]
)
def test_weights_that_are_loaded_when_needed_give_the_same_answers(layers: str, entry: str) -> None:
    place = {**REST, "model.embed_tokens": entry, "lm_head": entry, "model.layers.1": layers}
    place |= {"model.layers.0": "cpu", "model.layers.2": "cpu"}
    receiver = load(str(PAIR / "receiver"), device_map=place, dtype="float32")
    plain = load(str(PAIR / "receiver"), device="cpu", dtype="float32")
    assert receiver.spread
    assert not plain.spread
    assert receiver.device == CPU
    kinds = {p.device.type for p in receiver.model.parameters()}
    assert kinds == {"cpu", "meta"}
    fuser = random_fuser(plain, plain)
    found = [
        answers(CacheToCache(lm, (replace(fused(plain, plain).links[0], sharer=lm, fuser=fuser),)))
        for lm in (plain, receiver)
    ]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2:] == found[1][2:]


def settings(out: Path, **more: Any) -> dict[str, Any]:
    pair = {"receiver": str(PAIR / "receiver"), "sharers": [str(PAIR / "sharer")], "fusers": [str(PAIR / "fuser")]}
    quick = {"tasks": ["relay"], "limit": 6, "latency_samples": 1, "latency_warm_up": 0, "progress": False}
    return {**pair, **quick, "output_path": str(out), **more}


def samples(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def test_a_run_with_a_map_gives_the_same_samples_and_records_where_layers_were(tmp_path: Path) -> None:
    place = {"model": "cpu", "lm_head": "cpu"}
    offloaded = {**REST, "model.layers.0": "disk", **{f"model.layers.{i}": "cpu" for i in range(1, 4)}}
    run(build(settings(tmp_path / "plain")))
    run(build(settings(tmp_path / "one", device_map=place)))
    run(build(settings(tmp_path / "two", device_map=json.dumps(offloaded))))
    assert samples(tmp_path / "plain") == samples(tmp_path / "one") == samples(tmp_path / "two")
    plain, one, two = (load_run(tmp_path / name).record for name in ("plain", "one", "two"))
    assert plain.identity == one.identity == two.identity
    assert one.config["device_map"] == place
    assert two.config["device_map"] == offloaded
    assert plain.models[0].devices == one.models[0].devices == {}
    assert {two.models[0].devices["model.layers.0"], two.models[0].devices["lm_head"]} == {"disk", "cpu"}
    assert two.models[1].weights_bytes == plain.models[1].weights_bytes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"device_map": "autos"}, "allowed: auto, balanced"),
        ({"device_map": "{broken"}, "no JSON object"),
        ({"device_map": {}}, "is empty"),
        ({"device_map": "auto", "device": "cuda:1"}, "device 'cuda:1' does too"),
        ({"tensor_parallel": True, "device": "cpu"}, "device 'cpu' does too"),
        ({"tensor_parallel": True, "device_map": "auto"}, "give one of them"),
        ({"device_map": "auto", "backend": "vllm", "channels": ["receiver"]}, "its own arguments"),
    ],
)
def test_what_contradicts_itself_is_refused_in_a_sentence(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        build(values)
    assert "\n" not in str(caught.value)


def test_a_strategy_reaches_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    told = given_to_transformers(monkeypatch, device_map="balanced")
    assert told["device_map"] == "balanced"
    assert "distributed_config" not in told


def test_splitting_reaches_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = given_to_transformers(monkeypatch, tensor_parallel=True)
    assert told["distributed_config"].tp_plan == "auto"
    assert told["distributed_config"].tp_size == 2
    assert "device_map" not in told


def given_to_transformers(monkeypatch: pytest.MonkeyPatch, **placement: Any) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained`` for a loading."""
    from transformers import AutoModelForCausalLM

    told: dict[str, Any] = {}
    real = AutoModelForCausalLM.from_pretrained

    def spy(source: str, **more: Any) -> Any:
        told.update(more)
        return real(source, **{k: v for k, v in more.items() if k not in ("device_map", "distributed_config")})

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    load(str(PAIR / "receiver"), **placement)
    return told


def test_splitting_without_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="torchrun --nproc-per-node"):
        load(str(PAIR / "receiver"), tensor_parallel=True)


def test_a_map_for_processes_that_share_their_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes share them"):
        load(str(PAIR / "receiver"), device_map="auto")


def test_a_map_that_does_not_fit_is_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load(str(PAIR / "receiver"), device_map={"model.layers.0": "cpu", "model.layers.1": "disk"})
    assert "\n" not in str(caught.value)


def test_a_map_that_leaves_a_part_behind_is_refused() -> None:
    model = random_lm("qwen3").model
    check_placed(model)
    model.lm_head.to("meta")
    with pytest.raises(ValueError, match=r"leaves out .* on meta"):
        check_placed(model)


def embedded(**placement: Any) -> dict[str, Channel]:
    receiver, sharer = (load(str(PAIR / role), dtype="float32", **placement) for role in ("receiver", "sharer"))
    link = Link(sharer, fitting_fuser(load_fuser(str(PAIR / "fuser")), receiver, sharer))
    return {"receiver": Single(receiver), "c2c": CacheToCache(receiver, (link,))}


def split(rank: int, world: int, meeting: Path) -> int:
    """Answers as one of the processes that hold both models together; writes what a whole model would have said."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    told = {}
    for name, channel in embedded(tensor_parallel=True).items():
        context, logits, tokens, scored = answers(channel)
        assert isinstance(context.buffer, SplitBuffer)
        told[name] = {"logits": logits.tolist(), "tokens": tokens, "scored": scored, "heads": heads(context)}
    meeting.with_name(f"rank-{rank}").write_text(json.dumps(told))
    return 0


def heads(context: Context) -> int:
    assert context.buffer.data is not None
    return context.buffer.data.shape[3]


def test_heads_split_over_two_processes_are_fused_as_those_of_one(tmp_path: Path) -> None:
    children = [forked(split, rank, 2, tmp_path / "meeting", said=tmp_path / "said") for rank in (0, 1)]
    assert [ended(child) for child in children] == [0, 0], (tmp_path / "said").read_text()
    found = [json.loads((tmp_path / f"rank-{rank}").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    for name, channel in embedded(device="cpu").items():
        context, logits, tokens, scored = answers(channel)
        assert torch.allclose(torch.tensor(found[0][name]["logits"]), logits, atol=1e-4)
        assert found[0][name]["scored"] == pytest.approx(scored, abs=1e-4)
        assert [tuple(row) for row in found[0][name]["tokens"]] == tokens
        assert heads(context) == 2 * found[0][name]["heads"]
    assert found[0]["c2c"]["logits"] != found[0]["receiver"]["logits"]


def test_heads_that_cannot_be_shared_out_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_lm("qwen3").model
    monkeypatch.setattr(type(model), "tp_size", 3)
    with pytest.raises(ValueError, match="2 KV heads cannot be shared out to 3 processes"):
        check_placed(model)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """GPUs that hold memory, and which of them were waited for."""
    waited: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda number: number != 1)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    return waited


def test_a_mark_waits_for_every_gpu_that_holds_a_model(two_gpus: list[int]) -> None:
    clock = Clock(torch.device("cuda:0"))
    clock.mark("start")
    clock.mark("end")
    assert two_gpus == [0, 2, 0, 2]
    assert clock.since_start_s("end") >= 0
