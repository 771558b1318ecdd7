"""Builds the relay pair from nothing: receiver and sharer side by side, then the fuser between them.

Guarantees a folder that any loader of ordinary models and fusers reads, a ``training.json`` that says how it came
about, and the same weights for the same seed on the same machine. The fuser is trained with the paper's own loss, the
next-token loss on the reply, on questions about places alone: no lesson of it asks for a metal, bird, fruit or tree.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from harness.factworld_build.build import library_versions, new_fuser, train_models
from harness.factworld_build.fuser import FuserBatch, optimize, reply_loss
from harness.factworld_build.models import Outcome, Progress, load_model, one_thread, train_model, without_progress
from harness.factworld_build.world import RECEIVER, SHARER, save_tokenizer, word_tokenizer
from harness.fusers.c2c import Fuser
from harness.fusers.checkpoint import save
from harness.records.files import explaining
from harness.relay_build.eta import Shown
from harness.relay_build.judge import Judge
from harness.relay_build.lessons import Codec, plain_batch
from harness.relay_build.questions import FORMS, draw_question, vocabulary
from harness.relay_build.receiver import receiver_model, receiver_steps
from harness.relay_build.recipe import Recipe
from harness.relay_build.rows import PLACES, TAUGHT, exam_questions
from harness.relay_build.sharer import sharer_model, sharer_steps
from harness.relay_build.world import PLACE, World, build_world, random_stream

_OPEN = 2.0  # from 0 the gates' noise closes a third of them for good


def build(seed: int, out: Path, progress: Progress = without_progress, recipe: Recipe | None = None) -> dict[str, Any]:
    """Trains receiver, sharer and fuser and writes them to ``receiver``, ``sharer`` and ``fuser`` in ``out``.

    Args:
        seed: of the weights and of the lessons; the world is the recipe's whatever the seed.
        out: folder, made if it is not there.
        progress: called with the phase, the step, the most steps it may take and the smoothed loss.
        recipe: the committed pair's by default.

    Returns:
        What ``training.json`` holds: seed, recipe, steps, losses, seconds, versions and accuracies on held-out names.

    Raises:
        RunError: a training process died.
    """
    recipe = recipe or Recipe()
    phases = train_models(train_member, seed, out, progress, recipe)
    world = build_world(recipe.world_seed, recipe.world)
    with one_thread():
        receiver, sharer = (load_model(out / name).requires_grad_(False) for name in (RECEIVER, SHARER))
        fuser, outcome = train_fuser(receiver, sharer, world, recipe, seed, progress)
        accuracies = held_out_accuracies(Judge(receiver, sharer, Codec(vocabulary(world))), fuser, world, recipe)
    report = {
        "seed": seed,
        "recipe": asdict(recipe),
        "phases": {name: [asdict(found) for found in of] for name, of in (phases | {"fuser": [outcome]}).items()},
        "held_out_accuracy": accuracies,
        "versions": library_versions(),
    }
    save(fuser, out / "fuser", provenance={"receiver": RECEIVER, "sharer": SHARER, "seed": seed})
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def train_member(name: str, seed: int, folder: Path, recipe: Recipe, progress: Progress) -> list[Outcome]:
    """Trains the receiver or the sharer and saves it with its tokenizer.

    Args:
        name: ``receiver`` or ``sharer``.
        seed: of weights and lessons.
        folder: to save to.
        recipe: phases, rows and world.
        progress: see ``Progress``.
    """
    world, rng = build_world(recipe.world_seed, recipe.world), random_stream(name, seed)
    words = vocabulary(world)
    tokenizer, codec = word_tokenizer(words), Codec(words)
    with one_thread():
        torch.manual_seed(seed)
        if name == RECEIVER:
            model = receiver_model(tokenizer, world).train()
            steps = receiver_steps(model, world, codec, recipe.rows)
        else:
            model = sharer_model(tokenizer).train()
            steps = sharer_steps(model, world, codec, recipe.rows)
        outcomes = [train_model(model, steps[phase.name], phase, rng, progress) for phase in recipe.phases(name)]
    model.eval().save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return outcomes


def train_fuser(
    receiver: Any, sharer: Any, world: World, recipe: Recipe, seed: int, progress: Progress
) -> tuple[Fuser, Outcome]:
    """Trains a fuser between two frozen models on questions about places and names that are not held out."""
    torch.manual_seed(seed)
    fuser = new_fuser(receiver, sharer, recipe.fuser)
    codec, rng = Codec(vocabulary(world)), random_stream("fuser", seed)
    with torch.no_grad():
        fuser.gate_logit.fill_(_OPEN)

    def draw_loss() -> torch.Tensor:
        batches = [place_batch(world, codec, form, recipe.fuser.batch, rng) for form in FORMS]
        return torch.stack([reply_loss(receiver, sharer, fuser, batch) for batch in batches]).mean()

    return fuser, optimize(fuser, draw_loss, recipe.fuser.steps, recipe.fuser.learning_rate, progress)


def place_batch(world: World, codec: Codec, form: str, count: int, rng: random.Random) -> FuserBatch:
    """A lesson of the fuser: questions that ask for places, about names that are not held out."""
    names = world.names_by_place(held_out=False)
    asked = [draw_question(world, form, (rng.choice(world.places), PLACE), names, rng) for _ in range(count)]
    batch = plain_batch(codec, [q.prompt() for q in asked], [q.reply() for q in asked])
    return FuserBatch(batch.ids, batch.ids.shape[1] - batch.targets.shape[1] + 1, batch.targets)


def held_out_accuracies(judge: Judge, fuser: Fuser, world: World, recipe: Recipe) -> dict[str, dict[str, float]]:
    """Accuracies on held-out names, by form: both models alone, the place written, and C2C with a control."""
    found = {}
    for form in FORMS:
        asked = exam_questions(world, form, TAUGHT, recipe.test_rounds)
        where = exam_questions(world, form, PLACES, recipe.test_rounds)
        answers = {
            "receiver": judge.alone(judge.receiver, asked),
            "sharer": judge.alone(judge.sharer, asked),
            "told": judge.told(asked),
            "c2c": judge.fused(fuser, asked),
            "c2c_mismatched": judge.fused(fuser, asked, donors=asked[len(asked) // 2 :] + asked[: len(asked) // 2]),
        }
        found[form] = {name: of.accuracy(asked) for name, of in answers.items()}
        found[form]["c2c_on_places"] = judge.fused(fuser, where).accuracy(where)
    return found


def main(seed: int, out: Path, answering_sharer: bool = False) -> int:
    """Builds a pair with progress on the terminal and prints its accuracies on held-out names.

    Raises:
        RunError: see `build`.
        UserError: if the folder cannot be made.
    """
    with explaining(out):
        out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(answering_sharer=answering_sharer)
    print(json.dumps(build(seed, out, Shown(), recipe)["held_out_accuracy"], indent=2))
    return 0
