"""``train``: a fuser from a receiver, its sharers and a data set, or an adapter of the receiver alone.

Guarantees a folder that says what it holds: the recipe, the log, checkpoints to resume from, and at the end the
fuser in the harness's format, or the adapter in peft's, with its origin in its header; and that the frozen models
are still what they were.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RunError, UserError
from harness.paths import RECIPE_FILE, program
from harness.progress import progress, quiet, stage
from harness.training.recipe import Recipe, add_arguments, from_options, identity

if TYPE_CHECKING:
    from harness.training.dataloader import Batches
    from harness.training.loop import Loop
    from harness.training.setup import Session

__all__ = ["add_arguments", "main", "train"]
_SAMPLE_ROWS = 32  # to tell one way of writing prompts from another


def main(options: argparse.Namespace) -> int:
    """Trains as the parsed flags say.

    Raises:
        UserError: if the recipe, a model, the data or a checkpoint to resume cannot be used.
        RunError: if the training cannot be finished.
    """
    recipe = from_options(options)
    with quiet():
        train(recipe)
    return 0


_SOME_TASK = "TASK"


def _where_written(session: Session) -> Iterator[str]:
    """Says where the result lies and how it is run."""
    from harness.records.files import COST_FILE

    results = sorted(path.parent for path in session.folder.glob(f"*/{COST_FILE}"))
    yield f"Written: {', '.join(map(str, results))}"
    yield how_to_run(session.recipe, results)


def how_to_run(recipe: Recipe, results: Sequence[Path]) -> str:
    """Returns a line with the command that asks a task, the one that the training names if it names one.

    Args:
        recipe: of the training.
        results: folders of its fusers, or of its adapter.
    """
    flags = [("receiver", recipe.receiver), *(("sharer", sharer) for sharer in recipe.sharers)]
    templates = ("receiver_chat_template", "sharer_chat_template")
    flags += [(name, str(value)) for name in templates if (value := getattr(recipe, name))]
    flags += [("fuser" if recipe.sharers else "tuned", str(path)) for path in results]
    task = recipe.prompt_of or ",".join(recipe.validate_tasks) or _SOME_TASK
    words = [part for name, value in [*flags, ("tasks", task)] for part in (f"--{name}", value)]
    words += ["--trust_remote_code"] * recipe.trust_remote_code
    where = f", {_SOME_TASK} being one that `{program()} ls` lists" if task == _SOME_TASK else ""
    return f"To run it{where}: {program()} run {shlex.join(words)}"


def train(recipe: Recipe) -> Path:
    """Trains and returns the run's folder; see `main`."""
    from harness.channels.engine import ending_with_the_device
    from harness.evaluation.run import environment

    # Fork warnings: tokenizers are used before data-loading libraries start threads of their own.
    kept = "what was learned up to the last checkpoint is kept, --resume goes on in a new process"
    with environment(TOKENIZERS_PARALLELISM="false"), ending_with_the_device(kept):
        return _trained(recipe)


def _trained(recipe: Recipe) -> Path:
    import torch

    from harness.records.files import explaining
    from harness.records.folder import Held
    from harness.training.setup import open_session

    folder = Path(recipe.output_path).expanduser()
    with explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
    first = not int(os.environ.get("RANK") or 0)
    with stage("Reading models and rows ...", recipe.progress and first):
        session = open_session(recipe)
    with Held(folder) if session.accelerator.is_main_process else nullcontext():
        try:
            _run(session)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"The memory of {session.device} is full; resume with --gradient-checkpointing, or start a new run "
                "with a smaller micro_batch."
            ) from error
    return folder


def _run(session: Session) -> None:
    from harness.records.files import write_atomic
    from harness.training.prompt_cache import weights_sha256
    from harness.training.setup import COMMITS_FILE

    weights = [weights_sha256(lm) for lm in session.models]
    loop = _loop(session, weights)
    if session.accelerator.is_main_process:
        write_atomic(session.folder / RECIPE_FILE, session.recipe.model_dump_json(indent=2) + "\n")
        write_atomic(session.folder / COMMITS_FILE, json.dumps(session.commits.known, indent=2) + "\n")
    if session.corpus.tested:
        loop.log.say(_tested_text(session))
    left, every = session.steps - loop.position.step, session.recipe.log_every
    _say(session, f"Training {left} steps of {session.recipe.global_batch} rows, a line every {every} ...")
    loop.run()
    loop.log.close()
    if [weights_sha256(lm) for lm in session.models] != weights:
        raise RunError("A frozen model's weights have changed during training; do not use the result, report this.")
    if session.accelerator.is_main_process:
        _finish(session, loop)
        for line in _where_written(session) if session.recipe.progress else ():
            print(line, file=sys.stderr)
    session.accelerator.wait_for_everyone()


def _shown(session: Session) -> bool:
    return bool(session.recipe.progress and session.accelerator.is_main_process)


def _say(session: Session, sentence: str) -> None:
    """Says what begins, so that nobody waits for the first line in the dark."""
    if _shown(session):
        print(sentence, file=sys.stderr, flush=True)


def _tested_text(session: Session) -> str:
    rows = f"{session.corpus.tested} of {len(session.corpus)} rows"
    return f"Note: {rows} are questions that {session.recipe.prompt_of} asks; its accuracy is no test of them."


def _loop(session: Session, weights: list[str]) -> Loop:
    from harness.training.checkpoints import Checkpoints, Position
    from harness.training.dataloader import Batches
    from harness.training.loop import Loop, load_quizzes, optimisation
    from harness.training.metrics_log import Log
    from harness.training.prompt_cache import prompts_sha256

    recipe, accelerator, objective = session.recipe, session.accelerator, session.objective
    rank, world = accelerator.process_index, accelerator.num_processes
    optimiser = optimisation(objective, recipe, session.steps)
    batches = Batches(recipe, session.corpus, objective.channel, rank, world)
    prompts = prompts_sha256(session.models, batches.sample(_SAMPLE_ROWS))
    origin = {"data_fingerprint": session.corpus.fingerprint, "prompts_sha256": prompts, "weights_sha256": weights}
    pinned, told = {**identity(recipe), **origin}, _provenance(session, origin)
    checkpoints = Checkpoints(session.folder / "checkpoints", pinned, recipe.keep, told)
    batches = replace(batches, store=_store(session, list(origin.values())))
    goes_on = recipe.resume and bool(checkpoints.steps())
    position = checkpoints.read(objective, optimiser) if goes_on else _from_start(checkpoints, Position())
    if recipe.standard_rows and not goes_on:
        _standardise(session, batches)
    quizzes = load_quizzes(recipe.validate_tasks, recipe.validate_limit, rank, world)
    writes = accelerator.is_main_process
    log = Log(session.folder, position.step, progress=recipe.progress, tensorboard=recipe.tensorboard, writes=writes)
    return Loop(session, batches, optimiser, checkpoints, log, quizzes, position)


def _standardise(session: Session, batches: Batches) -> None:
    from accelerate.utils import broadcast

    from harness.training.setup import standardise_inputs

    lessons = batches.first(session.recipe.standard_rows)
    if not lessons:
        raise UserError(
            f"standard_rows is {session.recipe.standard_rows}, but none of them can be learned from; raise it."
        )
    _say(session, f"Reading {len(lessons)} prompts, by which the fuser's inputs are scaled ...")
    with progress("prompts read", len(lessons), _shown(session)) as bar:
        standardise_inputs(session.objective.channel, lessons, bar)
    for value in session.objective.parameters():
        value.data = broadcast(value.data)  # processes on unlike hardware measure other last bits


def _from_start(checkpoints: Any, position: Any) -> Any:
    if checkpoints.steps():
        raise UserError(
            f"{checkpoints.folder.parent} already holds a training run; add --resume to continue it or choose another "
            "folder."
        )
    return position


def _provenance(session: Session, origin: dict[str, Any]) -> dict[str, Any]:
    recipe = session.recipe
    return {
        "receiver": recipe.receiver,
        "sharers": list(recipe.sharers),
        "commits": dict(session.commits.known),
        "recipe": identity(recipe),
        **origin,
        "steps": session.steps,
        "trained_parameters": sum(value.numel() for value in session.objective.parameters()),
        **({"tested_rows": session.corpus.tested} if session.corpus.tested else {}),
    }


def _store(session: Session, origin: list[Any]) -> Any:
    from harness.training.prompt_cache import Store, store_name

    recipe = session.recipe
    if recipe.cache_messages == "off":
        return None
    maps = [link.fuser.config.layer_map for link in session.objective.channel.links]
    name = store_name(identity(recipe), [*origin, maps])
    if recipe.cache_messages == "memory":
        return Store(None, recipe.cache_gib)
    shared = Path(recipe.messages_dir).expanduser() if recipe.messages_dir else session.folder / "messages"
    return Store(shared / name, recipe.cache_gib)


def _finish(session: Session, loop: Loop) -> None:
    """Writes the last weights as the result, the best ones beside them, and the original format if asked."""
    from harness.fusers.checkpoint import save_official
    from harness.training.checkpoints import fuser_name

    objective, best = session.objective, loop.position.best_step
    provenance = {**loop.checkpoints.provenance, "step": loop.position.step}
    objective.save(session.folder, provenance)
    if session.recipe.official:
        links = objective.channel.links
        for number, link in enumerate(links):
            save_official(link.fuser, session.folder / "official" / fuser_name(number, len(links)))
    if best is not None:
        objective.restore(loop.checkpoints.at(best))
        score = {"step": best, "validation_score": loop.position.best_score}
        objective.save(session.folder / "best", {**provenance, **score})
    _write_cost(session.folder, loop)


def _write_cost(folder: Path, loop: Loop) -> None:
    """Says beside the weights what they cost; in their header it would make equal weights look unlike."""
    from harness.records.files import COST_FILE, write_atomic

    cost = {"train_cpu_s": round(loop.position.cpu_s, 1), "train_wall_s": round(loop.position.seconds, 1)}
    for weights in (*folder.glob("*/*.safetensors"), *folder.glob("best/*/*.safetensors")):
        write_atomic(weights.parent / COST_FILE, json.dumps(cost) + "\n")
