"""Measures a pair's answers in ways that are no channel: trained and stepwise ensembles, and given places.

Guarantees that every row is right or wrong for each question of the committed test, in its order, so that several
trainings can be averaged question by question. Run ``python -m harness.relay_build.measure PAIR OUT.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.factworld_build.models import load_model, one_thread
from harness.factworld_build.world import RECEIVER, SHARER
from harness.fusers.checkpoint import load
from harness.fusers.interface import FuserModule
from harness.relay_build.judge import Answers, Judge
from harness.relay_build.lessons import Codec
from harness.relay_build.questions import FORMS, Question, draw_question, vocabulary
from harness.relay_build.rows import PLACES, TAUGHT, UNTAUGHT, WORLD_SEED, exam_questions
from harness.relay_build.world import World, build_world, random_stream

BUDGETS = (2, 4, 8, 16, 32)
RULES = ("mean", "product", "confident")
_MLP_QUESTIONS, _MLP_EPOCHS, _MLP_WIDTH = 3000, 20, 64


def rows_without_channel(judge: Judge, fuser: FuserModule, world: World, form: str) -> dict[str, list[bool]]:
    """Right or wrong for every row of the table that no channel gives, by name.

    Args:
        judge: asks the pair.
        fuser: between its models.
        world: of the questions.
        form: of the questions.
    """
    asked, untaught, places = (exam_questions(world, form, split) for split in (TAUGHT, UNTAUGHT, PLACES))
    ours, theirs = judge.alone(judge.receiver, asked), judge.alone(judge.sharer, asked)
    found = {
        "receiver": ours.right(asked),
        "sharer": theirs.right(asked),
        **{f"letters, {rule}": letter_ensemble(ours.letters, theirs.letters, rule).right(asked) for rule in RULES},
        "letters, MLP": trained_letters(judge, world, form, asked).right(asked),
        **{f"every token, {rule}": judge.together(asked, rule).right(asked) for rule in RULES[:2]},
        "place written": judge.told(asked).right(asked),
        "true note": judge.noted(asked, [question.note() for question in asked]).right(asked),
        **{f"T2T, {budget} tokens": _by_text(judge, asked, budget).right(asked) for budget in BUDGETS},
        "C2C": judge.fused(fuser, asked).right(asked),
        "places forced": judge.forced(asked).right(asked),
        "untaught: C2C": judge.fused(fuser, untaught).right(untaught),
        "untaught: place written": judge.told(untaught).right(untaught),
        "places: C2C": judge.fused(fuser, places).right(places),
        "places: sharer": judge.alone(judge.sharer, places).right(places),
    }
    return {name: right.tolist() for name, right in found.items()}


def letter_ensemble(ours: Tensor, theirs: Tensor, rule: str) -> Answers:
    """An untrained ensemble over the letters' normalised probabilities `[rows, 4]`."""
    both = torch.stack([ours.log_softmax(-1), theirs.log_softmax(-1)])  # [models, rows, 4]
    if rule == "mean":
        letters = both.logsumexp(0)
    elif rule == "product":
        letters = both.sum(0)
    else:
        entropy = -(both.exp() * both).sum(-1)
        letters = torch.where((entropy[1] < entropy[0])[:, None], both[1], both[0])
    return Answers(torch.zeros(len(ours), 0, dtype=torch.long), letters)


def trained_letters(judge: Judge, world: World, form: str, asked: Sequence[Question]) -> Answers:
    """An MLP trained on both models' letter log-probabilities of other questions, about names that are not held out."""
    rng, names = random_stream("mlp", WORLD_SEED), world.names_by_place(held_out=False)
    others = [draw_question(world, form, rng.choice(world.taught), names, rng) for _ in range(_MLP_QUESTIONS)]
    net = fitted_mlp(_both_letters(judge, others), torch.tensor([question.key for question in others]))
    with torch.no_grad():
        letters = net(_both_letters(judge, asked))
    return Answers(torch.zeros(len(asked), 0, dtype=torch.long), letters)


def fitted_mlp(features: Tensor, keys: Tensor) -> nn.Module:
    """An MLP from features `[rows, width]` to the four letters."""
    torch.manual_seed(0)
    width = _MLP_WIDTH
    layers = (nn.Linear(features.shape[1], width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))
    net = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(_MLP_EPOCHS):
        for batch in torch.randperm(len(keys)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(features[batch]), keys[batch]).backward()
            optimizer.step()
    return net


def _both_letters(judge: Judge, questions: Sequence[Question]) -> Tensor:
    answers = [judge.alone(model, questions) for model in (judge.receiver, judge.sharer)]
    return torch.cat([answer.letters.log_softmax(-1) for answer in answers], 1)


def _by_text(judge: Judge, asked: Sequence[Question], budget: int) -> Answers:
    return judge.noted(asked, judge.notes(asked, budget))


def measured_rows(pair: Path) -> dict[str, Any]:
    """Every row of a pair's folder, by form, with the seed of its training."""
    world = build_world(WORLD_SEED)
    with one_thread():
        receiver, sharer = (load_model(pair / name).requires_grad_(False) for name in (RECEIVER, SHARER))
        judge, fuser = Judge(receiver, sharer, Codec(vocabulary(world))), load(pair / "fuser")
        found = {form: rows_without_channel(judge, fuser, world, form) for form in FORMS}
    return {"seed": json.loads((pair / "training.json").read_text(encoding="utf-8"))["seed"], "rows": found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measures what no channel gives of a trained relay pair.")
    parser.add_argument("pair", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.write_text(json.dumps(measured_rows(given.pair)) + "\n", encoding="utf-8")
