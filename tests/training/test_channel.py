from dataclasses import replace

import pytest
import torch

from harness.channels.c2c import CacheToCache, Link
from harness.inference.generate import score
from harness.inference.types import CallStats, Query
from harness.training.objective import KINDS, Computing, GraphChannel, TrainedLink, summed_loss
from harness.training.setup import recompute_layers
from tests.support.training_runs import EXAMPLES, FOREIGN, OURS, graph_channel, lessons

SETUPS = [(OURS, 1, "sequential"), (OURS, 2, "parallel"), (FOREIGN, 1, "sequential"), (FOREIGN, 2, "sequential")]


def at_inference(channel, found):
    """What the engine says the same responses cost."""
    links = tuple(Link(link.sharer, link.fuser) for link in channel.links)
    plain, total = CacheToCache(channel.answers, links, channel.mode, channel.alignment), 0.0
    with torch.inference_mode():
        for example, one in zip(EXAMPLES, found, strict=True):
            queries, work = [Query(example.conversation)], CallStats()
            context = plain.receive(queries, plain.send(queries, work), work)
            total -= score(context, [[one.response]], work)[0][0].loglikelihood
    return total


@pytest.mark.parametrize(("words", "sharers", "mode"), SETUPS)
def test_the_loss_is_the_loglikelihood_that_the_engine_gives_the_responses(words, sharers, mode):
    channel = graph_channel(words=words, sharers=sharers, mode=mode, double=True)
    found = lessons(channel)
    assert len(found) == len(EXAMPLES)
    assert any(one.padded for one in found) == (words == FOREIGN)
    expected = at_inference(channel, found)
    assert float(summed_loss(channel, found).detach()) == pytest.approx(expected, rel=1e-6)
    kept = [channel.keep(one) for one in found]
    assert float(summed_loss(channel, found, kept).detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("words", "sharers", "mode"), SETUPS)
def test_gradients_through_the_fused_cache_are_the_numerical_ones(words, sharers, mode):
    channel = graph_channel(words=words, sharers=sharers, mode=mode, double=True)
    found = lessons(channel)[1:3]
    parameters = []
    for link in channel.links:
        link.fuser.train().set_temperature_step(500)
        parameters += list(link.fuser.named_parameters())

    def loss():
        torch.manual_seed(7)  # the same dropout and the same gate noise every time
        return summed_loss(channel, found)

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for name, value in parameters:
        direction = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        with torch.no_grad():
            step = 1e-6
            value.add_(step * direction)
            above = float(loss())
            value.sub_(2 * step * direction)
            below = float(loss())
            value.add_(step * direction)
        numerical, analytical = (above - below) / (2 * step), float((value.grad * direction).sum())
        assert analytical == pytest.approx(numerical, rel=1e-5, abs=1e-6), name


def test_only_the_fuser_gets_gradients_and_the_sharer_builds_no_graph():
    channel = graph_channel()
    link = channel.links[0]
    found = lessons(channel)
    assert not channel._message(found, None).parts[0].requires_grad
    assert not channel.keep(found[0]).clean.requires_grad
    summed_loss(channel, found).backward()
    assert all(value.grad is not None for name, value in link.fuser.named_parameters() if name != "gate_logit")
    for lm in (channel.answers, link.sharer):
        assert all(value.grad is None and not value.requires_grad for value in lm.model.parameters())
        assert not lm.model.training


def test_what_is_in_a_batch_does_not_change_a_loss():
    channel = graph_channel(words=FOREIGN, double=True)
    found = lessons(channel)
    with torch.no_grad():
        alone = sum(float(summed_loss(channel, [one])) for one in found)
        assert float(summed_loss(channel, found)) == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("kinds", ["k", "v"])
def test_keys_or_values_alone_are_fused(kinds):
    channel = graph_channel()
    link = TrainedLink(channel.links[0].sharer, channel.links[0].fuser, kinds=KINDS[kinds])
    narrow = GraphChannel(channel.answers, (link,))
    assert len(link.entries) == link.fuser.layers
    link.fuser.train()
    summed_loss(narrow, lessons(narrow)).backward()
    moved = link.fuser.gate_logit.grad.view(2, -1).abs().sum(1) > 0
    assert moved.tolist() == [kinds == "k", kinds == "v"]


def test_a_response_ends_with_its_turn_and_is_cut_to_the_length():
    channel = graph_channel()
    whole = lessons(channel)[0]
    assert whole.response[-1] in channel.answers.stop_ids
    assert not set(whole.response[:-1]) & channel.answers.stop_ids
    short = lessons(channel, EXAMPLES[:1], whole.prompt_length + 3)[0]
    assert short.response == whole.response[:3]
    assert lessons(channel, EXAMPLES[:1], whole.prompt_length) == []
    assert lessons(channel, [EXAMPLES[0].__class__(EXAMPLES[0].conversation, "")]) == []


@pytest.mark.parametrize("words", [OURS, FOREIGN])
def test_recomputation_reads_the_past_that_it_saw_first(words):
    channel = graph_channel(words=words, sharers=2)
    found = lessons(channel)
    fusers = [link.fuser.train() for link in channel.links]

    def gradients():
        torch.manual_seed(7)
        for fuser in fusers:
            fuser.zero_grad()
        summed_loss(channel, found).backward()
        return [value.grad.clone() for fuser in fusers for value in fuser.parameters()]

    kept = gradients()
    recompute_layers(channel.answers.model)
    again = tuple(replace(link, computing=Computing(recompute=True)) for link in channel.links)
    channel = GraphChannel(channel.answers, again, channel.mode)
    assert all(torch.equal(one, other) for one, other in zip(kept, gradients(), strict=True))
