"""A control keeps a message's form and destroys its content, and depends on the question and the seed alone."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import pytest
import torch

from harness.benchmarks.questions import load_benchmark
from harness.channels.control_registry import CONTROLS as REGISTERED
from harness.channels.controls import Control, band_means, stretch_to
from harness.channels.messages import NoMessage, TensorMessage, TextMessage
from harness.config import RunConfig
from harness.errors import RunError
from harness.evaluation.accuracy_pass import answer_task, left_out, mean_message, needs_mean, samples_missing
from harness.evaluation.run_state import Tally
from harness.evaluation.setup import Cast, load_cast
from harness.inference.batching import Budget
from harness.paths import PAIR
from harness.records.schema import Sample
from tests.support.relay import LETTERS_FILE, WORDS
from tests.support.work import query

LENGTHS = (5, 3, 21, 4)
QUERIES = [query(f"question {i}") for i in range(len(LENGTHS))]
CONTROLS = ("mismatched", "mean", "zeroed", "noise", "noise_own", "closed", "shuffled_tokens")
TASKS = {"letters": LETTERS_FILE, "words": WORDS}
BUDGETS = (Budget(1), Budget(2), Budget(3), Budget(8), Budget(64, max_batch_tokens=90))


def message(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> TensorMessage:
    generator = torch.Generator().manual_seed(seed)
    part = 3 * torch.randn(2, sum(lengths), 6, generator=generator) + torch.arange(6.0)
    return TensorMessage((part,), lengths)


def control(name: str, seed: int = 0, **more: Any) -> Control:
    return Control(REGISTERED.get(name), seed, **more)


def rows(sent: Any) -> tuple[torch.Tensor, ...]:
    return sent.parts[0].split(list(sent.lengths), dim=1)


def changed(name: str, seed: int = 0, **more: Any) -> tuple[torch.Tensor, ...]:
    return rows(control(name, seed, **more)(message(), QUERIES))


def test_a_lent_message_is_cropped_or_repeated_to_the_questions_length() -> None:
    apart = TensorMessage((rows(message())[0],), LENGTHS[:1])
    donors = [message().only(1), apart, message().only(3), message().only(2)]
    sent, heard = rows(message()), rows(control("mismatched")(message(), QUERIES, donors))
    torch.testing.assert_close(heard[1], sent[0][:, :3], rtol=0, atol=0)
    torch.testing.assert_close(heard[0], torch.cat([sent[1], sent[1][:, :2]], 1), rtol=0, atol=0)
    assert [h.shape for h in heard] == [s.shape for s in sent]


def test_an_empty_message_cannot_be_stretched() -> None:
    with pytest.raises(ValueError, match="empty"):
        stretch_to(torch.empty(2, 0, 6), 3)


def test_the_mean_message_is_the_same_for_every_question_of_a_length() -> None:
    means = band_means([message(seed=1), message(seed=2)])
    lengths = (7, 7, 2, 7)
    heard = rows(control("mean", mean=means)(message(lengths, 3), QUERIES))
    assert torch.equal(heard[0], heard[1])
    assert torch.equal(heard[0], heard[3])


def test_the_mean_is_over_all_tokens_of_a_band() -> None:
    sent = message((2, 32))
    (mean,) = band_means([sent])
    long, short = sent.parts[0][:, 2:], sent.parts[0][:, :2]
    torch.testing.assert_close(mean[:, 0], (long[:, 0] + long[:, 1] + short[:, 0]) / 3)
    torch.testing.assert_close(mean[:, 5], (long[:, 10] + long[:, 11]) / 2)


def test_the_mean_message_survives_a_batch_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    (items,) = load_benchmark(config("words")).items.values()
    group = next(g for g in cast().groups if needs_mean(g, items))
    whole = mean_message(group, items, 0, 6, Tally())
    send = type(group.channel).send

    def small(self: Any, queries: Any, work: Any) -> Any:
        if len(queries) > limit:
            raise torch.cuda.OutOfMemoryError("too large")
        return send(self, queries, work)

    monkeypatch.setattr(type(group.channel), "send", small)
    limit = 2
    for ours, theirs in zip(mean_message(group, items, 0, 6, Tally(), at_once=5), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    limit = 0
    with pytest.raises(RunError, match="mean message of c2c cannot be found .*too large.* leave mean out"):
        mean_message(group, items, 0, 6, Tally())


def test_zeroed_is_zero_and_keeps_its_size() -> None:
    heard = control("zeroed")(message(), QUERIES)
    assert heard.payload_bytes == message().payload_bytes
    assert not any(row.any() for row in rows(heard))


NOISES = {
    "noise_own": lambda sent, lent: control("noise_own")(sent, QUERIES[:1]),
    "noise": lambda sent, lent: control("noise")(sent, QUERIES[:1], [lent]),
}


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_the_mean_and_deviation_of_a_message_in_every_feature(name: str) -> None:
    sent, lent = message((4000,), 5), TensorMessage((2 * message((300,), 6).parts[0] - 7,), (300,))
    heard = rows(NOISES[name](sent, lent))[0]
    assert heard.shape == rows(sent)[0].shape
    own = rows(lent if name == "noise" else sent)[0]
    torch.testing.assert_close(heard.mean(1), own.mean(1), rtol=0, atol=0.25)
    torch.testing.assert_close(heard.std(1), own.std(1, correction=0), rtol=0.06, atol=0)
    own = rows(sent)[0]
    correlation = ((heard - heard.mean(1, True)) * (own - own.mean(1, True))).mean(1) / (heard.std(1) * own.std(1))
    assert correlation.abs().max() < 0.08


def test_noise_says_nothing_of_the_questions_own_message() -> None:
    noise, lent = control("noise"), [message(seed=9).only(place) for place in (1, 0, 3, 2)]
    heard, again = (rows(noise(message(seed=seed), QUERIES, lent)) for seed in (1, 2))
    assert all(map(torch.equal, heard, again))
    assert not torch.equal(heard[2], rows(noise(message(), QUERIES[::-1], lent))[2])
    alone = noise(TensorMessage((rows(message())[2],), LENGTHS[2:3]), QUERIES[2:3], lent[2:3])
    assert torch.equal(rows(alone)[0], heard[2])
    with pytest.raises(TypeError, match="control noise does not take a TextMessage"):
        noise(TextMessage(("a",), ("asked",)), QUERIES[:1], [message().only(1)])


@pytest.mark.parametrize("name", ["noise_own", "shuffled_tokens"])
def test_what_is_drawn_depends_on_question_and_seed_alone(name: str) -> None:
    together, again, other = changed(name), changed(name), changed(name, seed=1)
    assert all(map(torch.equal, together, again))
    assert not torch.equal(together[2], other[2])
    part = rows(message())[2]
    alone = control(name)(TensorMessage((part,), (LENGTHS[2],)), QUERIES[2:3])
    assert torch.equal(rows(alone)[0], together[2])


@pytest.mark.parametrize("name", ["noise_own", "shuffled_tokens"])
def test_two_questions_with_one_message_draw_differently(name: str) -> None:
    part = rows(message())[2]
    heard = rows(control(name)(TensorMessage((torch.cat([part, part], 1),), (LENGTHS[2],) * 2), QUERIES[:2]))
    assert not torch.equal(*heard)


def test_shuffling_permutes_whole_tokens() -> None:
    own, heard = rows(message())[2], changed("shuffled_tokens")[2]
    assert not torch.equal(own, heard)
    assert sorted(own.transpose(0, 1).flatten(1).tolist()) == sorted(heard.transpose(0, 1).flatten(1).tolist())


def test_controls_of_text() -> None:
    texts = ("the sky is blue because of air", "two", "three words here", "four")
    sent = TextMessage(texts, ("asked",) * 4)
    lent = [sent.only(1), TextMessage(("sent again",), ("asked",)), sent.only(3), sent.only(2)]
    assert control("mismatched")(sent, QUERIES, lent).texts == ("two", "sent again", "four", texts[2])
    assert control("zeroed")(sent, QUERIES).payload_bytes == (0, 0, 0, 0)
    shuffled = control("shuffled_tokens")(sent, QUERIES).texts
    assert [Counter(t.split()) for t in shuffled] == [Counter(t.split()) for t in texts]
    assert shuffled[0] != texts[0]
    assert control("shuffled_tokens")(sent, QUERIES).texts == shuffled


def test_an_unknown_message_is_refused() -> None:
    for name in ("zeroed", "mismatched"):
        with pytest.raises(TypeError, match="NoMessage"):
            control(name)(NoMessage(2), QUERIES[:2])


def config(kind: str) -> RunConfig:
    return RunConfig(
        receiver=str(PAIR / "receiver"),
        sharers=(str(PAIR / "sharer"),),
        fusers=(str(PAIR / "fuser"),),
        channels=("receiver", "t2t:max_new_tokens=8", "c2c"),
        controls=CONTROLS,
        tasks=(TASKS[kind],),
        limit=11,
        calibration_samples=6,
        device="cpu",
        dtype="float32",
    )


@functools.cache
def cast() -> Cast:
    return load_cast(config("words"))


@functools.cache
def answered(kind: str, budget: int) -> tuple[dict[tuple[str, str, str], Sample], Tally]:
    (items,) = load_benchmark(config(kind)).items.values()
    tally, found = Tally(), {}
    for group in cast().groups:
        means = mean_message(group, items, 0, 6, tally) if needs_mean(group, items) else ()
        for made, _ in answer_task(group, items, set(), BUDGETS[budget], 0, means, tally):
            found |= {(s.channel, s.control, s.doc_id): s for s in made}
    return found, tally


def answered_by(asked: RunConfig) -> dict[tuple[str, str], list[Sample]]:
    """Every sample of a run, by channel and control."""
    (items,) = load_benchmark(asked).items.values()
    found: dict[tuple[str, str], list[Sample]] = {}
    for group in load_cast(asked).groups:
        means = mean_message(group, items, 0, 6, Tally()) if needs_mean(group, items) else ()
        for made, _ in answer_task(group, items, set(), Budget(8), 0, means, Tally()):
            for sample in made:
                found.setdefault((sample.channel, sample.control), []).append(sample)
    return found


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("budget", range(1, len(BUDGETS)))
def test_no_arm_depends_on_the_batch_size(kind: str, budget: int) -> None:
    expected, found = answered(kind, 0)[0], answered(kind, budget)[0]
    assert len(expected) == 11 * (1 + 1 + 3 + 1 + len(CONTROLS))
    assert expected.keys() == found.keys()
    loose = {"loglikelihoods", "entropy"}
    for key, sample in expected.items():
        assert sample.done, key
        assert found[key].model_dump(exclude=loose) == sample.model_dump(exclude=loose), key
        assert found[key].loglikelihoods == pytest.approx(sample.loglikelihoods, abs=1e-4), key
        assert found[key].entropy == pytest.approx(sample.entropy, abs=1e-4), key


@pytest.mark.parametrize("kind", TASKS)
def test_a_single_question_has_no_control_that_needs_another(kind: str) -> None:
    (whole,) = load_benchmark(config(kind)).items.values()
    items = whole[:1]
    for group in cast().groups:
        own = [c for c in group.controls if not REGISTERED.get(c).of_others]
        made = [s for batch, _ in answer_task(group, items, set(), Budget(8), 0, (), Tally()) for s in batch]
        assert [s.control for s in made] == ["", *own]
        assert all(s.done for s in made)
        assert not needs_mean(group, items)
        assert samples_missing(group, items, set()) == 1 + len(own)
        done = {(s.task, s.doc_id, s.channel, s.control) for s in made}
        assert samples_missing(group, items, done) == 0
        assert left_out(group, items) == [c for c in group.controls if REGISTERED.get(c).of_others]
        assert left_out(group, whole[:2]) == []


@pytest.mark.parametrize("kind", TASKS)
def test_closed_gates_give_the_receivers_own_answers(kind: str) -> None:
    found = answered(kind, 3)[0]
    closed = {doc: s for (channel, control, doc), s in found.items() if (channel, control) == ("c2c", "closed")}
    assert len(closed) == 11
    for doc, sample in closed.items():
        alone = found["receiver", "", doc]
        assert (sample.text, sample.predicted) == (alone.text, alone.predicted)
        assert sample.loglikelihoods == pytest.approx(alone.loglikelihoods, abs=1e-5)


def test_controls_change_what_is_read() -> None:
    found = answered("letters", 3)[0]
    for control in set(CONTROLS):
        pairs = [(s, found["c2c", "", doc]) for (ch, c, doc), s in found.items() if (ch, c) == ("c2c", control)]
        assert any(a.loglikelihoods != pytest.approx(b.loglikelihoods, abs=1e-3) for a, b in pairs), control


@pytest.mark.parametrize("control", ["mismatched", "zeroed", "noise", "noise_own", "closed", "shuffled_tokens"])
def test_controls_never_ask_the_sharer_again(control: str) -> None:
    work = answered("words", 3)[1].work
    sharer_share = work["c2c"].counters.forwards - work["c2c/zeroed"].counters.forwards
    assert sharer_share > 0
    assert work[f"c2c/{control}"].counters.bytes_moved == 0
    found = answered("words", 3)[0]
    whole = sum(s.prompt_tokens for (channel, c, _), s in found.items() if (channel, c) == ("c2c", control))
    read = work[f"c2c/{control}"].counters.prompt_tokens
    if control == "closed":
        assert read == whole
    else:  # of the same fused prompts a control reads only the last token again
        assert read == len([key for key in found if key[:2] == ("c2c", control)]) < whole


def test_means_are_made_once_from_the_calibration_draw() -> None:
    work = answered("words", 3)[1].work
    assert work["c2c/mean"].counters.bytes_moved > 0
    assert work["c2c/mean"].counters.bytes_moved < work["c2c"].counters.bytes_moved
