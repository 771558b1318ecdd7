"""Builds everything a training run works with, input normalization included, from its recipe.

Guarantees that models are frozen before anything runs and that every process starts from the same trained weights.

Keys carry large constant parts, which drown what differs from token to token, so that a short training learns nothing.
Input normalization lets a fuser's first layer start as if what it reads had mean 0 and variance 1. Only the starting
point changes: means and scales are folded into the weights and bias of that layer, so its form stays the paper's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.channels.c2c import Link
from harness.channels.layer_selection import chosen_layers
from harness.errors import UserError
from harness.fusers.checkpoint import check_fits, load
from harness.fusers.interface import FuserModule, PairConfig, config_of
from harness.fusers.layer_mapping import LayerMap, k_nearest, last_aligned, pair_shapes
from harness.fusers.registry import C2C, parse_form
from harness.models.chat import check_template, template_flag, template_remedy
from harness.models.hub import Commits
from harness.models.lm import LM, KVShape, kv_shape
from harness.models.loading import fetch_reference, pick_device
from harness.models.loading import load as load_model
from harness.models.reference import parse_reference
from harness.progress import Progress, Silent
from harness.records.schema import is_commit
from harness.self_check import checked
from harness.training.dataloader import Lesson, derived_seed
from harness.training.dataset import Corpus
from harness.training.interface import Trained
from harness.training.lora import TunedReceiver, insert_adapter
from harness.training.objective import GraphChannel, Kept, Objective
from harness.training.recipe import Recipe
from harness.training.sources import read_corpus

COMMITS_FILE = "commits.json"

_DATA = "dataset "  # before the name of a data set among the commits

# What a recipe says of a fuser's form, and where a fuser says it of itself.
_WIDTHS = ("hidden_dim", "intermediate_dim", "num_layers")

_SCHEDULE = ("dropout", "initial_temperature", "final_temperature", "anneal_steps")

_FORM = {**{name: name for name in _WIDTHS}, **dict.fromkeys(("fuse_layers", "layer_alignment"), "layer_map")}

LAYER_ALIGNMENTS: dict[str, Callable[[int, int], LayerMap]] = {"last_aligned": last_aligned, "k_nearest": k_nearest}


@dataclass
class Session:
    """A run that is ready to start.

    Attributes:
        recipe: what was asked.
        accelerator: of the library of that name; knows the processes and the device.
        corpus: the rows.
        models: receiver and sharers, frozen.
        objective: the loss, with what is trained as its parameters.
        wrapped: the same, wrapped for several processes where there are any.
        steps: optimizer steps in all.
        commits: what references without a commit stand for; when resuming, what they stood for at the start.
    """

    recipe: Recipe
    accelerator: Any
    corpus: Corpus
    models: tuple[LM, ...]
    objective: Trained
    wrapped: nn.Module
    steps: int
    commits: Commits = field(default_factory=Commits)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.models[0].device

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.recipe.output_path).expanduser()


def open_session(recipe: Recipe) -> Session:
    """Reads the data, loads the models and builds or loads what is trained.

    Raises:
        UserError: if any of it does not exist, does not fit or contradicts the number of processes.
    """
    from accelerate import Accelerator

    where = pick_device(recipe.device)
    accelerator = Accelerator(cpu=where.type == "cpu")
    if recipe.global_batch % (recipe.micro_batch * accelerator.num_processes):
        raise UserError(
            f"global_batch {recipe.global_batch} cannot be dealt out to {accelerator.num_processes} processes in micro "
            f"batches of {recipe.micro_batch}; make it a multiple of {recipe.micro_batch * accelerator.num_processes}."
        )
    commits = _commits(recipe)
    corpus = _corpus(recipe, commits)
    steps = recipe.steps or max(1, int(recipe.epochs * (len(corpus) - recipe.held_out_rows) / recipe.global_batch))
    device = str(accelerator.device) if accelerator.num_processes > 1 else str(where)
    receiver = _model(recipe, recipe.receiver, "receiver", device, commits)
    sharers = [_model(recipe, name, "sharer", device, commits) for name in recipe.sharers]
    objective = _objective(recipe, receiver, sharers, steps)
    if recipe.gradient_checkpointing:
        for lm in (receiver, *sharers):
            recompute_layers(lm.model)
    wrapped = accelerator.prepare_model(objective) if accelerator.num_processes > 1 else objective
    return Session(recipe, accelerator, corpus, (receiver, *sharers), objective, wrapped, steps, commits)


def _objective(recipe: Recipe, receiver: LM, sharers: Sequence[LM], steps: int) -> Objective | TunedReceiver:
    if recipe.method == "lora":
        return TunedReceiver(insert_adapter(receiver, recipe)).train()
    fusers = [_fuser(recipe, number, receiver, sharer, steps) for number, sharer in enumerate(sharers)]
    return Objective(receiver, sharers, fusers, recipe).to(receiver.device).train()


def _commits(recipe: Recipe) -> Commits:
    """The commits that the first session of a resumed training has read; none for a new one."""
    path = Path(recipe.output_path).expanduser() / COMMITS_FILE
    if not recipe.resume or not path.is_file():
        return Commits()
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        return Commits({str(name): str(commit) for name, commit in recorded.items()})
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or start a new training.") from error


def _corpus(recipe: Recipe, commits: Commits) -> Corpus:
    """Reads the rows; a data set on the hub without a commit at the one that the first session has read."""
    name = f"{_DATA}{recipe.data}"
    if not is_commit(recipe.data_revision) and name in commits.known:
        return read_corpus(recipe.model_copy(update={"data_revision": commits.known[name]}))
    corpus = read_corpus(recipe)
    commit = corpus.fingerprint.removeprefix(f"{recipe.data}@").partition("/")[0]
    if is_commit(commit) and not is_commit(recipe.data_revision):
        commits.known[name] = commit
    return corpus


def _model(recipe: Recipe, name: str, role: str, device: str, commits: Commits) -> LM:
    lm = load_model(
        fetch_reference(parse_reference(name), commits),
        device=device,
        dtype=recipe.dtype,
        attention=recipe.attention,
        chat_template=getattr(recipe, template_flag(role)),
        trust_remote_code=recipe.trust_remote_code,
    )
    check_template(lm, template_remedy(role))
    return checked(lm)


def recompute_layers(model: nn.Module) -> None:
    """Makes every decoder layer compute its activations again in the backward pass.

    PyTorch's wrapper and not transformers' own switch, which would drop the cache; ours may be read twice.
    """
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
    from transformers.modeling_layers import GradientCheckpointingLayer

    apply_activation_checkpointing(model, check_fn=lambda layer: isinstance(layer, GradientCheckpointingLayer))


def _fuser(recipe: Recipe, number: int, receiver: LM, sharer: LM, steps: int) -> FuserModule:
    shapes = kv_shape(receiver.config), kv_shape(sharer.config)
    config = fuser_config(recipe, *shapes, steps)
    found = _given(recipe, recipe.init[number], config, shapes) if recipe.init else None
    torch.manual_seed(derived_seed(recipe.seed, "weights", number))
    kind = parse_form(recipe.fuser_form)[0].load()
    fuser = kind(config if found is None else _scheduled(found.config, config))
    if found is not None:
        fuser.load_state_dict(found.state_dict())
    elif kind.form == C2C:
        fuser.start(initial_gate=recipe.initial_gate, zero_output=recipe.zero_output)
    if recipe.compile:
        fuser.compile(dynamic=True)
    return fuser


def _given(recipe: Recipe, folder: str, asked: PairConfig, shapes: tuple[KVShape, KVShape]) -> FuserModule:
    """A fuser to start from; its widths and layers are its own, and a recipe that asks for others is refused."""
    found = load(folder)
    form = parse_form(recipe.fuser_form)[0].name
    if found.form != form:
        raise UserError(f"The fuser in {folder!r} is of form {found.form!r}, not {form!r}; give that to --fuser-form.")
    check_fits(found, *shapes)
    named = [name for name in _FORM if getattr(recipe, name) != Recipe.model_fields[name].default]
    wrong = [name for name in named if getattr(found.config, _FORM[name]) != getattr(asked, _FORM[name])]
    if wrong:
        raise UserError(f"The fuser in {folder!r} was built with another {', '.join(wrong)}; leave it out.")
    return found


def _scheduled(given: PairConfig, asked: PairConfig) -> PairConfig:
    """The widths and layers of one with the dropout and the temperatures of the other."""
    return replace(given, **{name: getattr(asked, name) for name in _SCHEDULE if hasattr(asked, name)})


def fuser_config(recipe: Recipe, receiver: KVShape, sharer: KVShape, steps: int) -> PairConfig:
    """The configuration of a new fuser.

    Raises:
        UserError: if `fuse_layers` names layers that the receiver does not have, or the form does not know an option.
    """
    entry, options = parse_form(recipe.fuser_form)
    chosen = chosen_layers(recipe.fuse_layers, receiver.layers)
    pairs = LAYER_ALIGNMENTS[recipe.layer_alignment](receiver.layers, sharer.layers)
    shapes = pair_shapes(receiver, sharer, tuple(pair for pair in pairs if pair[0] in chosen))
    if entry.name == C2C:
        named = {name: getattr(recipe, name) for name in (*_WIDTHS, *_SCHEDULE)}
        options = {**named, "anneal_steps": recipe.anneal_steps or steps, **options}
    config: PairConfig = config_of(entry.load(), shapes, options)
    return config


@torch.no_grad()
def standardise_inputs(channel: GraphChannel, lessons: Sequence[Lesson], bar: Progress | None = None) -> None:
    """Folds what the fusers are fed for some prompts into their first layers, once, before training.

    Args:
        channel: with fusers as they were drawn; each is measured against the receiver's clean cache.
        lessons: prompts to measure on.
        bar: counts the prompts that were read.
    """
    kept = []
    for lesson in lessons:
        kept.append(channel.keep(lesson))
        (bar or Silent()).advance()
    for number, link in enumerate(channel.links):
        fed = [_fed(link, number, lesson, one) for lesson, one in zip(lessons, kept, strict=True)]
        theirs, ours = (torch.cat(parts, 1) for parts in zip(*fed, strict=True))
        link.fuser.standardise(link.entries, theirs, ours)


def _fed(link: Link, number: int, lesson: Lesson, kept: Kept) -> tuple[Tensor, Tensor]:
    """What the fuser reads of one prompt, `[entries, tokens, heads * head_dim]`, of the sharer and of the receiver.

    Of a prompt with several fused stretches only the first is in the clean cache, so only that is measured.
    """
    start, end = lesson.fused[0]
    kind, layer, place = link.read_index
    ours = kept.clean[kind, layer, 0, :, start:end].transpose(1, 2).flatten(2)
    theirs = kept.parts[number][place][:, : end - start]
    return theirs, ours
