"""Everything a training run can be told, under the names of the command line's flags; the paper's recipe by default.

Guarantees that a recipe which exists is a possible one and that each field says whether it changes the result
(*identity*: a resumed run must agree) or only speed and place (*runtime*). Imports neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.channels.registry import Alignment, FusionMode
from harness.config.fields import (
    IDENTITY,
    Attention,
    Count,
    CountOrZero,
    Device,
    Dtype,
    Fraction,
    Identity,
    Names,
    Runtime,
)
from harness.config.flags import Also, Each, Front, Off, Section, add_flags, given_values, keys_of
from harness.config.identity import kinds
from harness.config.loading import error_sentence
from harness.errors import UserError, suggest
from harness.fusers.registry import parse_form
from harness.paths import RECIPE_FILE

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]

# What the other method alone reads.
UNUSED = {
    "fuser": frozenset({"lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_layers"}),
    "lora": frozenset(
        {
            *("sharers", "sharer_chat_template", "init", "layer_alignment", "alignment", "fusion_mode", "fuse_layers"),
            *("fuse_kinds", "hidden_dim", "intermediate_dim", "num_layers", "dropout", "initial_temperature"),
            *("final_temperature", "anneal_steps", "zero_output", "initial_gate", "fuser_dtype", "cache_messages"),
            *("standard_rows", "compile", "official", "fuser_form"),
        }
    ),
}
# What the C2C form alone reads; another form brings options of its own.
C2C_ALONE = frozenset(
    {
        *("hidden_dim", "intermediate_dim", "num_layers", "dropout", "initial_temperature", "final_temperature"),
        *("anneal_steps", "zero_output", "initial_gate", "official"),
    }
)
# What says how a new fuser starts.
STARTING = frozenset({"zero_output", "initial_gate", "standard_rows"})


class Recipe(BaseModel):
    """One training run. Build it from outside input with `build`, which explains errors in a sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    # the models
    receiver: Identity[Annotated[str, Section("the models"), Front()]]
    """Model that answers: hub id, folder or GGUF file."""
    sharers: Identity[Annotated[Names, Also("sharer"), Each(), Front()]] = ()
    """Models whose caches are fused, in order; a fuser is trained for each, all together."""
    method: Identity[Annotated[Literal["fuser", "lora"], Front()]] = "fuser"
    """What is trained: fuser, or lora; that is a low-rank adapter of the receiver, which then learns alone."""
    receiver_chat_template: Identity[str | None] = None
    """Jinja file or `simple` in place of the receiver's own chat template."""
    sharer_chat_template: Identity[str | None] = None
    """Jinja file or `simple` in place of the sharers' own chat template."""
    trust_remote_code: Identity[bool] = False
    """Run model code that comes with the weights."""

    # the data
    data: Identity[Annotated[str, Section("the data"), Front()]] = "teknium/OpenHermes-2.5"
    """Hub data set, or a file of JSON, of chats or questions; a file has JSON lines, or one JSON array."""
    data_revision: Identity[str | None] = None
    """Revision of a data set on the hub."""
    data_config: Identity[str | None] = None
    """Configuration of a data set on the hub."""
    data_split: Identity[str] = "train"
    """Split of a data set on the hub."""
    prompt_of: Identity[str | None] = None
    """Task whose wording turns question documents into prompts; their labels are the responses."""
    max_rows: Identity[Count | None] = 500_000
    """Only the first so many rows."""
    held_out_rows: Identity[CountOrZero] = 0
    """Last rows of the data, for the validation loss alone."""
    max_length: Identity[Annotated[Count, Front()]] = 2048
    """Tokens of prompt and response; longer responses are cut, rows with longer prompts left out."""
    as_released: Identity[bool] = False
    """Read rows as the paper's released trainer does: system turns dropped, user turns stripped of white space, and
    rows that are longer than `max_length` as a whole left out."""

    # the fuser
    init: Identity[Annotated[Names, Each(), Section("the fuser")]] = ()
    """Fuser folders to start from, one a sharer; each keeps its form; none = random weights."""
    fuser_form: Identity[str] = "c2c"
    """Form of the fusers, with its options: `name[:option=value]...`; those of c2c have flags of their own."""
    layer_alignment: Identity[Literal["last_aligned", "k_nearest"]] = "last_aligned"
    """Which sharer layer a receiver layer reads."""
    alignment: Identity[Alignment] = "auto"
    """Token alignment between different tokenizers; auto = off for equal vocabularies."""
    fusion_mode: Identity[FusionMode] = "sequential"
    """Several sharers: each fuser reads the cache as left by the one before, or all read the clean one."""
    fuse_layers: Identity[str | None] = None
    """Receiver layers that are fused, such as `0-13,20`; none = all."""
    fuse_kinds: Identity[Literal["kv", "k", "v"]] = "kv"
    """What is fused: keys, values or both; the gates of the other kind stay shut."""
    hidden_dim: Identity[Count] = 1024
    """Width of the fuser's trunk."""
    intermediate_dim: Identity[Count] = 1024
    """Inner width of its FFN blocks."""
    num_layers: Identity[Annotated[int, Field(ge=3, le=64)]] = 3
    """Depth as the paper's code counts it."""
    dropout: Identity[Annotated[float, Field(ge=0, lt=1)]] = 0.1
    """Probability inside the FFN blocks."""
    zero_output: Identity[bool] = False
    """Start from a fuser that adds nothing, in place of random output weights; helps where training is short."""
    standard_rows: Identity[CountOrZero] = 0
    """Rows on which the fusers' inputs are measured, to start from a first layer that reads them with mean 0 and
    variance 1; 0 = weights as drawn. Short trainings need it."""
    initial_gate: Identity[float] = 0.0
    """Gate logits at the start. At 0 the noise shuts a gate in a third of its draws; at 2 hardly ever."""
    initial_temperature: Identity[Positive] = 1.0
    """Of the Gumbel gates at the first step."""
    final_temperature: Identity[Positive] = 0.001
    """Of the Gumbel gates from `anneal_steps` on."""
    anneal_steps: Identity[Count | None] = None
    """Steps over which the temperature falls; none = all."""

    # the adapter
    lora_rank: Identity[Annotated[Count, Section("the adapter")]] = 16
    """Rank of the adapter's products."""
    lora_alpha: Identity[Positive] = 32.0
    """The adapter's product is scaled by this over the rank."""
    lora_dropout: Identity[Annotated[float, Field(ge=0, lt=1)]] = 0.05
    """Probability before the adapter's product."""
    lora_targets: Identity[Annotated[Names, Each()]] = ()
    """Modules that are adapted, such as `q_proj,v_proj`; none = all linear layers of attention and MLP."""
    lora_layers: Identity[str | None] = None
    """Receiver layers that are adapted, such as `15-29`; none = all. No gradient goes below the lowest."""

    # the optimisation
    steps: Identity[Annotated[Count | None, Section("the optimisation"), Front()]] = None
    """Optimizer steps; none = as many as `epochs` take."""
    epochs: Identity[Positive] = 1.0
    """Passes over the data, where `steps` is not given."""
    global_batch: Identity[Annotated[Count, Front()]] = 256
    """Rows of one optimizer step; over all processes and accumulated micro batches."""
    micro_batch: Identity[Annotated[Count, Front()]] = 4
    """Rows of one forward pass of one process."""
    learning_rate: Identity[Annotated[Positive, Front()]] = 1e-4
    """Peak of the schedule."""
    schedule: Identity[Literal["linear", "cosine", "constant_with_warmup"]] = "linear"
    """What follows the warm-up."""
    warm_up: Identity[Fraction] = 0.1
    """Part of the steps over which the learning rate rises."""
    weight_decay: Identity[NotNegative] = 0.01
    """Of AdamW."""
    adam_beta1: Identity[Momentum] = 0.9
    """Of AdamW."""
    adam_beta2: Identity[Momentum] = 0.999
    """Of AdamW."""
    grad_norm: Identity[Positive] = 1.0
    """Gradients are clipped to this norm."""
    seed: Identity[Annotated[CountOrZero, Front()]] = 0
    """Of weights, order and noise; dropout and gates included."""

    # the engine
    device: Identity[Annotated[Device, Section("the engine"), Front()]] = "auto"
    """auto, cpu, cuda or cuda:N; with several processes each takes its own."""
    dtype: Identity[Dtype] = "auto"
    """Number format of the frozen models; auto = bfloat16 on GPU, float32 on CPU."""
    fuser_dtype: Identity[Literal["auto", "float32", "bfloat16"]] = "auto"
    """Number format of the fuser's products; its master weights are float32. auto = that of the models."""
    attention: Identity[Attention] = "sdpa"
    """Attention kernel."""
    gradient_checkpointing: Runtime[bool] = False
    """Compute activations twice instead of keeping them."""
    compile: Identity[bool] = False
    """Compile the fuser's arithmetic, which needs a C++ compiler on a CPU: less memory traffic, other rounding."""
    cache_messages: Identity[Literal["off", "memory", "disk"]] = "off"
    """Keep the frozen models' prompt caches from one epoch to the next."""
    messages_dir: Runtime[str | None] = None
    """Folder for what `--cache-messages disk` keeps, which runs on the same data may share; none = beside the run."""
    cache_gib: Runtime[NotNegative] = 16.0
    """Most that `cache_messages` may take in one process; what does not fit is computed again."""

    # validation
    validate_tasks: Identity[Annotated[Names, Also("validate_task"), Each(), Section("validation")]] = ()
    """Tasks whose accuracy is measured; with the gates as they are at inference."""
    validate_every: Identity[Count] = 200
    """Steps between two validations; the last step is always validated."""
    validate_limit: Identity[Count | None] = None
    """Only the first so many questions of each task."""
    validate_batch: Runtime[Count] = 16
    """Questions answered at once."""

    # what is left behind
    output_path: Runtime[Annotated[str, Section("what is left behind"), Front()]]
    """Folder of the training; the fuser ends up in its `fuser` (several sharers: `fuser-0`, ...)."""
    official: Runtime[bool] = False
    """Also write the original trainer's format, to `official`."""
    save_every: Runtime[Count] = 200
    """Steps between two checkpoints."""
    keep: Runtime[Count] = 2
    """Newest checkpoints to keep beside the best one."""
    log_every: Runtime[Count] = 10
    """Steps between two lines of progress."""
    tensorboard: Runtime[bool] = False
    """Write TensorBoard logs, to `tensorboard`."""
    resume: Runtime[Annotated[bool, Front()]] = False
    """Continue the training in `output_path`; with the recipe there; start it where nothing has begun."""
    progress: Runtime[Annotated[bool, Off("Show no progress on the terminal.")]] = True
    """Show progress on the terminal."""

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        _check_method(self)
        if self.init and len(self.init) != len(self.sharers):
            raise UserError(f"init names {len(self.init)} fusers for {len(self.sharers)} sharers; give one for each.")
        if self.init and (wrong := _changed(self, STARTING)):
            raise UserError(f"A fuser that is given with --init starts as it is, without {wrong}; leave it out.")
        if self.messages_dir and self.cache_messages != "disk":
            raise UserError("messages_dir is used with --cache-messages disk alone; add that or leave it out.")
        if self.global_batch % self.micro_batch:
            raise UserError(
                f"global_batch {self.global_batch} is no multiple of micro_batch {self.micro_batch}; make it one."
            )
        return self


def _check_method(recipe: Recipe) -> None:
    if recipe.method == "lora" and recipe.sharers:
        raise UserError(
            f"Method lora trains the receiver alone, but sharers names {', '.join(recipe.sharers)}; "
            "leave --sharer out or use --method fuser."
        )
    if recipe.method == "fuser" and not recipe.sharers:
        raise UserError("sharers is empty; name at least one model with --sharer.")
    if wrong := _changed(recipe, UNUSED[recipe.method]):
        raise UserError(f"Method {recipe.method} does not use {wrong}; leave it out.")
    form = parse_form(recipe.fuser_form)[0].name
    if form != "c2c" and (wrong := _changed(recipe, C2C_ALONE)):
        raise UserError(
            f"Fuser form {form} does not use {wrong}; leave it out, or write --fuser-form {form}:name=value."
        )


def _changed(recipe: Recipe, names: frozenset[str]) -> str:
    """Names whose values are not the default, for a sentence."""
    fields = Recipe.model_fields
    return ", ".join(name for name in sorted(names) if getattr(recipe, name) != fields[name].default)


def identity(recipe: Recipe) -> dict[str, Any]:
    """Returns what decides the result, as plain JSON values; what only the other method uses is left out."""
    names = {name for name, kind in kinds(cast(Any, Recipe)).items() if kind == IDENTITY}
    # Fusers were trained before there was a choice; their runs go on without the name of the method.
    silent = UNUSED[recipe.method] | ({"method"} if recipe.method == "fuser" else frozenset())
    if not recipe.as_released:  # the same for how rows are read
        silent |= {"as_released"}
    silent |= {"fuser_form"} if recipe.fuser_form == "c2c" else C2C_ALONE
    return recipe.model_dump(mode="json", include=names - silent)


def build(values: Mapping[str, Any], where: str = "command line") -> Recipe:
    """Checks values and returns the recipe; `where` says in an error where they came from.

    Raises:
        UserError: naming the key, what was seen and what is allowed.
    """
    needed = ("receiver", "output_path") if values.get("method") == "lora" else ("receiver", "sharers", "output_path")
    for name in needed:
        if name not in values:
            raise UserError(f"{where}: {name} is missing; give it as a flag or in the YAML file.")
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{where}: {error_sentence(error)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns a file's values under the names of `Recipe`, unchecked, for flags to be laid over.

    Raises:
        UserError: if it cannot be read, is no flat YAML or has an unknown key.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"Cannot read the recipe {path}: {reason}; give a YAML file.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}; a recipe is a list of `name: value` lines.")
    return {_known(str(key), path): value for key, value in data.items()}


def _known(key: str, path: Path) -> str:
    name = keys_of(Recipe).get(key.replace("-", "_"), key.replace("-", "_"))
    if name not in Recipe.model_fields:
        raise UserError(f"{path}: unknown key {key[:40]!r}.{suggest(name, Recipe.model_fields)}")
    return name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one flag for each field of `Recipe`, and ``--config`` for a YAML file of them."""
    parser.add_argument("--config", type=Path, help="YAML file with any of these settings; flags win")
    add_flags(parser, Recipe)


def from_options(options: argparse.Namespace) -> Recipe:
    """Builds the recipe from parsed flags laid over the YAML file, or over the one that a resumed training began with.

    Raises:
        UserError: see `build` and `read_yaml`; or a resumed training began with another value of what is given.
    """
    path = getattr(options, "config", None)
    given = {**(read_yaml(path) if path else {}), **given_values(Recipe, vars(options))}
    began = _began(given)
    recipe = build({**began, **given}, "training recipe")
    _check_same(recipe, began, given)
    return recipe


def _began(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder of a training says of its recipe; nothing where none is resumed or none has begun."""
    path = Path(str(given.get("output_path", ""))).expanduser() / RECIPE_FILE
    if not given.get("resume") or "output_path" not in given or not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path}: {' '.join(str(error).split())[:200]}; restore it.") from error
    return found


def _check_same(recipe: Recipe, began: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    now, decisive = recipe.model_dump(mode="json"), kinds(cast(Any, Recipe))
    names = [name for name in given if name in began and decisive[name] == IDENTITY and now[name] != began[name]]
    if names:
        raise UserError(
            f"{recipe.output_path} was begun with another {', '.join(sorted(names))}; leave that out, or choose "
            "another --output_path."
        )
