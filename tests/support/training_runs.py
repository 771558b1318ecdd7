"""Tiny pairs on disk and in memory, chats to learn from, and recipes for both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.fusers.c2c import Fuser
from harness.models.chat import Conversation, Turn
from harness.models.lm import LM
from harness.models.loading import wrap
from harness.training.dataloader import Lesson, lay_out_lesson
from harness.training.dataset import Example, LeftOut
from harness.training.objective import GraphChannel, TrainedLink
from harness.training.recipe import Recipe, build
from tests.support.tiny import FOREIGN, OURS, random_fuser, random_lm

CHATS = (
    ("Hi there what is it?", "The answer is 42."),
    ("Why?", "Because so it is.", "And the sky, blue or not blue?", "No"),
    ("x y z", "a"),
    ("The river bends north, then east.\nWhere does it end?", "At the sea, of course."),
)


def example(*texts: str) -> Example:
    turns = tuple(Turn("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(texts))
    return Example(Conversation(turns[:-1]), turns[-1].content)


EXAMPLES = tuple(example(*texts) for texts in CHATS)


def as_float64(lm: LM) -> LM:
    """A model that computes in float64 throughout; transformers' own norms fall back to float32."""
    for parent in list(lm.model.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm).__name__.endswith("RMSNorm"):
                exact = torch.nn.RMSNorm(norm.weight.shape[0], norm.variance_epsilon)
                exact.load_state_dict(norm.state_dict())
                setattr(parent, name, exact)
    return wrap(lm.model.double(), lm.tokenizer)


def graph_channel(
    *, words: str = OURS, sharers: int = 1, mode: str = "sequential", double: bool = False
) -> GraphChannel:
    """A receiver with fusers that are in eval mode until somebody says otherwise."""
    exact = as_float64 if double else (lambda lm: lm)
    receiver = exact(random_lm("qwen3", seed=1))
    others = [exact(random_lm("llama", seed=2 + i, words=words, num_hidden_layers=4 - i)) for i in range(sharers)]
    links = tuple(TrainedLink(lm, trained(receiver, lm, double, seed)) for seed, lm in enumerate(others))
    return GraphChannel(receiver, links, mode)


def trained(receiver: LM, sharer: LM, double: bool = False, seed: int = 0) -> Fuser:
    fuser = random_fuser(receiver, sharer, seed=seed)
    return (fuser.double() if double else fuser).eval()


def lessons(channel: GraphChannel, examples: Sequence[Example] = EXAMPLES, length: int = 200) -> list[Lesson]:
    found = []
    for one in examples:
        with suppress(LeftOut):
            found.append(lay_out_lesson(channel.planner, one, length))
    return found


def pair_on_disk(folder: Path, words: str = OURS) -> dict[str, str]:
    """Saves a receiver and a sharer and returns where."""
    where = {}
    for role, seed, spoken in (("receiver", 1, OURS), ("sharer", 2, words)):
        lm = random_lm("qwen3" if role == "receiver" else "llama", seed=seed, words=spoken)
        lm.model.save_pretrained(folder / role)
        lm.tokenizer.save_pretrained(folder / role)
        where[role] = str(folder / role)
    return where


def chats_on_disk(folder: Path, rows: int = 24) -> Path:
    """Writes chats of different lengths as JSON lines."""
    path = folder / "chats.jsonl"
    made = []
    for number in range(rows):
        texts = CHATS[number % len(CHATS)]
        turns = [
            {"role": "user" if place % 2 == 0 else "assistant", "content": f"{text} {number}"}
            for place, text in enumerate(texts)
        ]
        made.append(json.dumps({"messages": turns}) + "\n")
    path.write_text("".join(made), encoding="utf-8")
    return path


def values(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A short recipe for the pair and the chats in a folder."""
    short = {
        **{"receiver": str(folder / "receiver"), "sharers": [str(folder / "sharer")]},
        **{"data": str(folder / "chats.jsonl"), "output_path": str(out), "steps": 6},
        **{"global_batch": 8, "micro_batch": 2, "hidden_dim": 16, "intermediate_dim": 24, "learning_rate": 3e-3},
        **{"device": "cpu", "progress": False, "log_every": 1, "save_every": 2, "max_length": 200},
    }
    return {**short, **changes}


def recipe(folder: Path, out: Path, **changes: Any) -> Recipe:
    return build(values(folder, out, **changes))


@contextmanager
def stopping_at(number: int) -> Iterator[None]:
    """Interrupts whatever trains at the start of a step."""
    from harness.training import loop

    step = loop.Loop.step

    def dying(self: loop.Loop, at: int) -> Any:
        if at == number:
            raise KeyboardInterrupt
        return step(self, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            yield


def logged(out: Path, name: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def weights(out: Path, fuser: str = "fuser") -> dict[str, torch.Tensor]:
    from harness.fusers.checkpoint import load

    return dict(load(out / fuser).state_dict())


__all__ = ["FOREIGN", "OURS"]
