"""What every channel keeps to; see the package's docstring."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.benchmarks.questions import Item, load_benchmark
from harness.channels.control_registry import CONTROLS, controls_taken
from harness.channels.interface import Group, LoadedModels, Unsuitable
from harness.channels.messages import TensorMessage, TextMessage
from harness.channels.spec import ChannelSpec, parse_channel
from harness.config import build
from harness.conformance.models import FACTS, random_fuser, tiny_lm, write_task
from harness.errors import UserError
from harness.evaluation.accuracy_pass import answer_task, mean_message, needs_mean
from harness.evaluation.run_state import Key, Tally
from harness.evaluation.setup import arms_of
from harness.inference.batching import Budget
from harness.inference.types import CallStats, Query
from harness.models.lm import LM
from harness.records.schema import Sample
from harness.registry import load_plugins

FORMS = ("options", "text")
# float32 sums in another order; a wrong mask or position is off by far more.
CLOSE = 1e-3


@dataclass(frozen=True)
class Cast:
    """Models of one cache shape and vocabulary."""

    receiver: LM
    sharer: LM

    @functools.cached_property
    def fusers(self) -> dict[str, Any]:
        """Fusers of the pair, and of the receiver with itself."""
        own = random_fuser(self.receiver, self.receiver, seed=1)
        return {"fusers": (random_fuser(self.receiver, self.sharer),), "self_fuser": own}


@pytest.fixture(scope="session")
def spec(pytestconfig: pytest.Config) -> ChannelSpec:
    """The channel that is tested."""
    name = pytestconfig.getoption("--channel", None)
    if not name:
        pytest.exit("name the channel that is tested: --channel NAME", returncode=2)
    try:
        load_plugins(pytestconfig.getoption("--plugin", None) or [])
        found = parse_channel(name)
    except UserError as error:
        pytest.exit(str(error), returncode=2)
    if not found.entry.build:
        pytest.exit(f"{name} is composed of other channels' answers, so there is nothing to test.", returncode=2)
    return found


@pytest.fixture(scope="session")
def cast() -> Cast:
    """The models."""
    return Cast(tiny_lm(0), tiny_lm(1))


@functools.cache
def items_of(folder: Path, form: str, facts: tuple[str, ...] = FACTS, views: bool = False) -> tuple[Item, ...]:
    """Questions of a task that is written into the folder."""
    task = write_task(folder, form, facts, views)
    config = build({"receiver": "r", "channels": ["receiver"], "controls": [], "tasks": [str(task)]})
    return tuple(load_benchmark(config).all_items)


def group_of(spec: ChannelSpec, cast: Cast, items: Sequence[Item]) -> Group:
    """The channel with every control that it can take; skips where it refuses the questions in a sentence."""
    needs: dict[str, Any] = {"sharers": ["s"]} if "sharer" in spec.entry.needs else {}
    needs |= {"fusers": ["f"]} if "fuser" in spec.entry.needs else {}
    needs |= {"tuned": "t"} if "tuned" in spec.entry.needs else {}
    config = build({"receiver": "r", "channels": [spec.text], "controls": [], "tasks": ["given"], **needs})
    models = LoadedModels(
        cast.receiver,
        config.controls,
        sharers=(cast.sharer,),
        tuned=cast.receiver,
        requests=[item.request for item in items],
        **cast.fusers,
    )
    try:
        group, *_ = arms_of(spec, models)
        for item in items:
            group.channel.prompt_length(item.request.query)
    except (Unsuitable, UserError) as reason:
        pytest.skip(f"refused: {reason}")
    of_message = [name for name in controls_taken(CONTROLS.names(), spec.entry) if not CONTROLS.get(name).models]
    return replace(group, controls=tuple(of_message))


def answered(
    group: Group, items: Sequence[Item], batch_size: int = 4, done: frozenset[Key] = frozenset()
) -> dict[Key, Sample]:
    """Every question through the channel and its controls."""
    tally = Tally()
    means = mean_message(group, items, 0, len(items), tally) if needs_mean(group, items) else ()
    batches = answer_task(group, items, done, Budget(batch_size), 0, means, tally)
    return {(s.task, s.doc_id, *s.arm): s for made, _ in batches for s in made}


def assert_same(one: dict[Key, Sample], other: dict[Key, Sample], tolerance: float = CLOSE) -> None:
    """The same arms and questions, with the same answers."""
    assert one.keys() == other.keys()
    for key, sample in one.items():
        assert sample.error is None, f"{key}: {sample.error}"
        assert sample.text == other[key].text, key
        assert sample.loglikelihoods == pytest.approx(other[key].loglikelihoods, abs=tolerance), key
        assert sample.payload_bytes == other[key].payload_bytes, key


@pytest.mark.parametrize("form", FORMS)
def test_order_of_questions(spec: ChannelSpec, cast: Cast, tmp_path: Path, form: str) -> None:
    """Answers do not depend on the order in which questions are asked."""
    items = items_of(tmp_path, form)
    group = group_of(spec, cast, items)
    assert_same(answered(group, items), answered(group, items[::-1]))


@pytest.mark.parametrize("form", FORMS)
def test_company(spec: ChannelSpec, cast: Cast, tmp_path: Path, form: str) -> None:
    """Answers, under every control, do not depend on what else is in a batch."""
    items = items_of(tmp_path, form)
    group = group_of(spec, cast, items)
    assert_same(answered(group, items, batch_size=len(items)), answered(group, items, batch_size=1))


@pytest.mark.parametrize("form", FORMS)
def test_controls(spec: ChannelSpec, cast: Cast, tmp_path: Path, form: str) -> None:
    """Every control that the channel can take answers every question; those without content say the same of all."""
    items = items_of(tmp_path, form)
    group = group_of(spec, cast, items)
    samples = answered(group, items)
    assert {control for *_, control in samples} == {"", *group.controls}
    assert len(samples) == len(items) * (1 + len(group.controls))
    assert all(sample.error is None and sample.correct is not None for sample in samples.values())


def test_bytes(spec: ChannelSpec, cast: Cast, tmp_path: Path) -> None:
    """A message has one size a query, which is what it holds, what is counted and what is recorded."""
    items = items_of(tmp_path, "options")
    group = group_of(spec, cast, items)
    queries, work = [item.request.query for item in items], CallStats()
    with torch.inference_mode():
        message = group.channel.send(queries, work)
    assert len(message) == len(message.payload_bytes) == len(queries)
    if isinstance(message, TextMessage):
        assert message.payload_bytes == tuple(len(text.encode()) for text in message.texts)
    if isinstance(message, TensorMessage):
        own = [sum(part.numel() * part.element_size() for part in row) for row in message.rows()]
        assert all(0 < size <= whole for size, whole in zip(message.payload_bytes, own, strict=True))
        assert message.crossed is not None or list(message.payload_bytes) == own
    if spec.entry.message:
        assert work.counters.bytes_moved == sum(message.payload_bytes)
        samples = answered(replace(group, controls=()), items)
        recorded = [samples[item.task, item.doc_id, group.channel.name, ""].payload_bytes for item in items]
        assert recorded == list(message.payload_bytes)


def test_nothing_is_remembered(spec: ChannelSpec, cast: Cast, tmp_path: Path) -> None:
    """`forget` costs time alone, and a second answer is the first."""
    items = items_of(tmp_path, "options")
    group = replace(group_of(spec, cast, items), controls=())
    first = answered(group, items)
    group.channel.forget()
    assert_same(first, answered(group, items), tolerance=0)


def test_resume(spec: ChannelSpec, cast: Cast, tmp_path: Path) -> None:
    """A run that goes on asks what is missing, and gets the answers of a run that was never stopped."""
    items = items_of(tmp_path, "options")
    group = group_of(spec, cast, items)
    whole = answered(group, items)
    done = frozenset(key for place, key in enumerate(sorted(whole)) if place % 3)
    rest = answered(group, items, done=done)
    assert rest.keys() == whole.keys() - done
    assert_same(rest, {key: whole[key] for key in rest}, tolerance=0)


@contextmanager
def read_by(lm: LM) -> Iterator[list[str]]:
    """Collects the text of every row that a model is given while it is open."""
    texts: list[str] = []

    def keep(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = given[0] if given else named["input_ids"]
        texts.extend(lm.tokenizer.decode(row) for row in ids)

    handle = lm.model.base_model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield texts
    finally:
        handle.remove()


def test_views(spec: ChannelSpec, cast: Cast, tmp_path: Path) -> None:
    """A fact that only the sharer reads is in no prompt of the receiver, and nothing of it is left in no message."""
    changed = ("ruby", *FACTS[1:])
    views = [items_of(tmp_path / str(n), "options", facts, True) for n, facts in enumerate((FACTS, changed))]
    group = group_of(spec, cast, views[0])
    with read_by(cast.receiver) as receivers, read_by(cast.sharer) as sharers:
        _logits(group, [item.request.query for item in views[0]], silent=True)
    assert receivers or sharers
    assert not [text for text in receivers for fact in FACTS if fact in text]
    if sharers:
        assert all(any(fact in text for text in sharers) for fact in FACTS)
    if spec.entry.message:
        one, other = (_logits(group, [items[0].request.query], silent=True) for items in views)
        assert torch.equal(one, other)


def _logits(group: Group, queries: Sequence[Query], silent: bool) -> torch.Tensor:
    """The receiver's logits behind its prompts; silent: of messages that hold nothing."""
    channel: Any = group.channel
    with torch.inference_mode():
        message = channel.send(queries, CallStats())
        if silent and isinstance(message, TextMessage):
            message = message.with_texts([""] * len(message))
        if silent and isinstance(message, TensorMessage):
            message = message.with_rows([tuple(map(torch.zeros_like, row)) for row in message.rows()])
        logits: torch.Tensor = channel.receive(queries, message, CallStats()).logits
    return logits
