"""Builds the embedded pair from nothing: both models side by side, then the fuser between them.

Guarantees a folder that any loader of ordinary models and fusers reads, and a ``training.json`` that records how it was
made. Receiver and sharer train at the same time with their progress in one place, and a failure of either reaches the
caller as the one sentence it was raised with. The trade-off: each trains in one process of one thread, because more
threads make models of this size slower.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import queue
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from harness.errors import RunError
from harness.factworld_build.fuser import FuserBatch, accuracies, fit_fuser, fuser_batch
from harness.factworld_build.models import (
    FuserRecipe,
    Outcome,
    Progress,
    Recipe,
    draw,
    load_model,
    one_thread,
    train_member,
    without_progress,
)
from harness.factworld_build.rows import WORLD_SEED
from harness.factworld_build.world import (
    RECEIVER,
    SHARER,
    Fact,
    ask_many,
    build_facts,
    build_tokenizer,
    names_of,
    random_stream,
    select_facts,
)
from harness.fusers.c2c import Fuser
from harness.fusers.checkpoint import save
from harness.fusers.layer_mapping import config_for
from harness.models.lm import kv_shape
from harness.records.files import explaining

REPORT_EVERY_STEPS = 20

Member = Callable[[str, int, Path, Any, Progress], list[Outcome]]

"""Trains the receiver or the sharer: name, seed, folder to save to, recipe, progress; a function of a module."""

_events: Any = None


def train_models(member: Member, seed: int, out: Path, progress: Progress, recipe: Any) -> dict[str, list[Outcome]]:
    """Trains both models and saves them to ``receiver`` and ``sharer`` in ``out``.

    Raises:
        RunError: if a model does not learn its facts, or a training process dies.
    """
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    with ProcessPoolExecutor(2, mp_context=context, initializer=_connect, initargs=(events,)) as pool:
        futures = {name: pool.submit(_reporting, member, name, seed, out / name, recipe) for name in (RECEIVER, SHARER)}
        _follow(list(futures.values()), events, progress)
        try:
            return {name: future.result() for name, future in futures.items()}
        except BrokenProcessPool as error:
            raise RunError("A training process died, most likely for want of memory; nothing was finished.") from error


def _reporting(member: Member, name: str, seed: int, folder: Path, recipe: Any) -> list[Outcome]:
    def tell(phase: str, step: int, steps: int, loss: float) -> None:
        if step % REPORT_EVERY_STEPS == 0:
            _events.put((f"{name} {phase}", step, steps, loss))

    return member(name, seed, folder, recipe, tell)


def _connect(events: Any) -> None:
    global _events  # noqa: PLW0603 - a pool hands a queue to its workers in no other way
    _events = events


def _follow(futures: Sequence[Future[Any]], events: Any, progress: Progress) -> None:
    while not all(future.done() for future in futures):
        with suppress(queue.Empty):
            progress(*events.get(timeout=0.2))


def build(seed: int, out: Path, progress: Progress = without_progress, recipe: Recipe | None = None) -> dict[str, Any]:
    """Trains receiver, sharer and fuser and writes them to ``receiver``, ``sharer`` and ``fuser`` in ``out``.

    Args:
        seed: of the weights and of the order of training; the world is the committed one whatever the seed.
        out: folder, made if it is not there.
        progress: called with the phase, the step, the most steps it may take and the smoothed loss.
        recipe: the committed pair's by default.

    Returns:
        What ``training.json`` holds: seed, steps, losses, seconds, versions and held-out accuracies.

    Raises:
        RunError: if a model does not learn its facts, or a training process dies.
    """
    recipe, start = recipe or Recipe(), time.perf_counter()
    phases = train_models(train_member, seed, out, progress, recipe)
    with one_thread():
        receiver, sharer = load_model(out / RECEIVER), load_model(out / SHARER)
        facts = build_facts(WORLD_SEED, recipe.world)
        tokenizer = build_tokenizer(names_of(facts))
        torch.manual_seed(seed)
        fuser = new_fuser(receiver, sharer, recipe.fuser)
        batches = fuser_batches(tokenizer, facts, recipe.fuser.batch, random_stream("fuser", seed))
        fused = fit_fuser(receiver, sharer, fuser, batches, recipe.fuser.steps, recipe.fuser.learning_rate, progress)
        held_out = held_out_accuracies(receiver, sharer, fuser, tokenizer, facts, recipe.test_questions)
    report = {
        "seed": seed,
        "world_seed": WORLD_SEED,
        "recipe": asdict(recipe),
        "phases": {
            name: [asdict(outcome) for outcome in found] for name, found in (phases | {"fuser": [fused]}).items()
        },
        "held_out_accuracy": held_out,
        "seconds": time.perf_counter() - start,
        "versions": library_versions(),
    }
    save(fuser, out / "fuser", provenance={"receiver": RECEIVER, "sharer": SHARER, "seed": seed})
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def new_fuser(receiver: Any, sharer: Any, recipe: FuserRecipe) -> Fuser:
    """An untrained fuser that fits two models, layers aligned from the last one down."""
    mine, theirs = kv_shape(receiver.config), kv_shape(sharer.config)
    config = config_for(
        mine,
        theirs,
        hidden_dim=recipe.hidden_dim,
        intermediate_dim=recipe.intermediate_dim,
        num_layers=recipe.num_layers,
        dropout=recipe.dropout,
        anneal_steps=recipe.steps,
    )
    return Fuser(config)


def fuser_batches(tokenizer: Any, facts: tuple[Fact, ...], batch: int, rng: random.Random) -> Iterator[FuserBatch]:
    """Endless batches of new questions on the facts that are not held out, half of them from each model's half."""
    halves = [select_facts(facts, half, held_out=False) for half in (RECEIVER, SHARER)]
    while True:
        yield fuser_batch(tokenizer, [question for half in halves for question in draw(half, batch // 2, rng)])


def held_out_accuracies(
    receiver: Any, sharer: Any, fuser: Fuser, tokenizer: Any, facts: tuple[Fact, ...], count: int
) -> dict[str, dict[str, float]]:
    """Accuracy of each channel on held-out facts, by the model that was taught them."""
    rng = random_stream("held-out", WORLD_SEED)
    halves = {half: ask_many(select_facts(facts, half, held_out=True), count, rng) for half in (RECEIVER, SHARER)}
    return {half: accuracies(receiver, sharer, fuser, tokenizer, asked) for half, asked in halves.items()}


def library_versions() -> dict[str, str]:
    """What the pair was made with."""
    import transformers

    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def _print(phase: str, step: int, steps: int, loss: float) -> None:
    if step % 100 == 0:
        print(f"{phase}: step {step} of at most {steps}, loss {loss:.3f}", flush=True)


def main(seed: int, out: Path) -> int:
    """Builds a pair with progress on the terminal and prints its held-out accuracy.

    Raises:
        RunError: see `build`.
        UserError: if the folder cannot be made.
    """
    with explaining(out):
        out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(build(seed, out, _print)["held_out_accuracy"], indent=2))
    return 0
