"""``bench``: checks its options, builds what is timed, times it and writes JSON, Markdown and a plot.

Times the channels, or training, at the shapes of a pair. Guarantees that options are checked before anything is built,
that models are built once for each number format, and that everything written follows from the raw values.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.bench.candidates import make_arms
from harness.bench.measure import Repeats, measure
from harness.bench.results import Bench, Cell, Found, Result, TrainCell, TrainResult
from harness.bench.synthetic_pair import EXAMPLES, FuserWidths, ModelShape, build_models, build_pair, read_pair
from harness.bench.tables import heading, markdown, plot, plot_training, train_heading, train_markdown
from harness.bench.training import make_train_arms, measure_training
from harness.channels.registry import CHANNELS
from harness.config.fields import Count, CountOrZero
from harness.config.flags import add_flags, given_values
from harness.config.loading import sentence
from harness.errors import UserError, unknown
from harness.fusers.registry import C2C, parse_form
from harness.models.loading import pick_device, pick_dtype
from harness.records.files import write_atomic
from harness.records.provenance import hardware, packages

Shapes = tuple[ModelShape, ModelShape]

Lengths = Mapping[str, list[int]]


def time_answers(options: BenchOptions, arms: list[str], shapes: Shapes, lengths: Lengths) -> None:
    """Times the channels and writes ``bench.*``."""
    device = pick_device(options.device)
    results: list[Result] = []
    speeds = {}
    for dtype in _dtypes(options, device):
        torch.manual_seed(options.seed)
        pair = build_pair(shapes, dtype, device, _widths(options), options.fuser_form)
        made = make_arms(pair, arms, options.message_tokens)
        for cell in _cells(_name(dtype), lengths, options.options > 0):
            asked = options.options, options.option_tokens
            found = measure(pair, made, cell, asked, _repeats(options), options.seed)
            results += found.results
            speeds[cell.dtype] = vars(found.speeds)
            _tell(heading(cell), found.results)
    bench = Bench(_about(options), speeds, tuple(results))
    _write(bench, options.output / "bench", markdown(bench))
    plot(bench.results, options.output / "bench.png")


def time_training(options: BenchOptions, arms: list[str], shapes: Shapes, lengths: Lengths) -> None:
    """Times optimizer steps and writes ``train.*``."""
    device = pick_device(options.device)
    results: list[TrainResult] = []
    speeds = {}
    for dtype in _dtypes(options, device):
        torch.manual_seed(options.seed)
        models = build_models(shapes, dtype, device)
        for cell in _train_cells(_name(dtype), lengths, options.micro_batches):
            made = make_train_arms(models, arms, cell, _widths(options), options.seed, options.fuser_form)
            found = measure_training(made, cell, _repeats(options))
            results += found.results
            speeds[cell.dtype] = vars(found.speeds)
            _tell(train_heading(cell), found.results)
    bench = Bench(_about(options), speeds, tuple(results))
    _write(bench, options.output / "train", train_markdown(bench))
    plot_training(bench.results, options.output / "train.png")


def _dtypes(options: BenchOptions, device: torch.device) -> list[torch.dtype]:
    return [pick_dtype(wanted, device) for wanted in options.dtypes.split(",")]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _widths(options: BenchOptions) -> FuserWidths:
    return FuserWidths(options.fuser_hidden, options.fuser_hidden)


def _repeats(options: BenchOptions) -> Repeats:
    return Repeats(options.repeats, options.warm_up)


def _cells(dtype: str, lengths: Lengths, scoring: bool) -> Iterator[Cell]:
    for prompt, batch in itertools.product(lengths["prompt_tokens"], lengths["batch_sizes"]):
        for new in [*lengths["new_tokens"], *[0] * scoring]:
            yield Cell(dtype, prompt, batch, new)


def _train_cells(dtype: str, lengths: Lengths, micro_batches: int) -> Iterator[TrainCell]:
    sizes = itertools.product(lengths["prompt_tokens"], lengths["response_tokens"], lengths["batch_sizes"])
    return (TrainCell(dtype, prompt, response, rows, micro_batches) for prompt, response, rows in sizes)


def _tell(title: str, results: Sequence[Found]) -> None:
    said = ", ".join(f"{r.arm} {r.total.median_s:.3f} s ({r.total.ratio:.2f}x floor)" for r in results)
    print(f"{title}: {said}", flush=True)


def _about(options: BenchOptions) -> dict[str, Any]:
    settings = {name: str(value) for name, value in vars(options).items() if isinstance(value, str | int | Path)}
    machine = hardware().model_dump(exclude_none=True)
    return {"settings": settings, "hardware": machine, "packages": packages()}


def _write(bench: Bench[Any], stem: Path, page: str) -> None:
    write_atomic(stem.with_suffix(".json"), json.dumps(bench.as_dict(), indent=1, allow_nan=False) + "\n")
    write_atomic(stem.with_suffix(".md"), page)
    print(f"Wrote {stem.name}.json and {stem.name}.md, and {stem.name}.png beside them, to {stem.parent}.")


ARMS = ("transformers", "receiver", "sharer", "t2t", "c2c", "lm_eval")

TRAIN_ARMS = ("plain", "checkpointing", "kept", "kept+checkpointing")

LISTS = ("prompt_tokens", "response_tokens", "batch_sizes", "new_tokens")

_USUAL_ARMS = {False: "transformers,receiver,t2t,c2c", True: "plain,checkpointing,kept"}

DTYPES = ("float32", "bfloat16", "float16")


class BenchOptions(BaseModel):
    """What a bench is told, under the names of its flags; lists are written with commas."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    shapes: str = Field(EXAMPLES[1], description=f"Receiver+sharer: names or folders, such as {', '.join(EXAMPLES)}.")
    train: bool = False
    """Time optimizer steps of fuser training instead of answers."""
    arms: str = Field(
        "",
        description=f"Some of {', '.join(ARMS)}, or any channel (default {_USUAL_ARMS[False]}), with --train of "
        f"{', '.join(TRAIN_ARMS)} (default {_USUAL_ARMS[True]}).",
    )
    prompt_tokens: str = "200"
    """Prompt lengths, template included."""
    batch_sizes: str = "1"
    """Questions answered at once; with --train rows of a micro batch."""
    new_tokens: str = "8"
    """Tokens decoded for each question."""
    response_tokens: str = "256"
    """With --train: tokens of each row that are learned."""
    micro_batches: Count = 1
    """With --train: micro batches of an optimizer step."""
    dtypes: str = Field("auto", description=f"Some of {', '.join(DTYPES)}; auto: bfloat16 on a GPU, else float32.")
    message_tokens: Count = 64
    """Tokens that a text sharer writes."""
    options: CountOrZero = 0
    """Also score this many options a question; 0: none."""
    option_tokens: Count = 4
    """Tokens of an option."""
    repeats: Count = 5
    """Rounds that count."""
    warm_up: CountOrZero = 1
    """Rounds before them; the first one measures memory."""
    fuser_form: str = C2C
    """Form of the fuser with its options: name[:option=value]..."""
    fuser_hidden: Count = 1024
    """Width of the C2C fuser."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Of weights and questions."""
    output: Path = Path("bench")
    """Folder for bench.json, .md and .png (train.json, ...)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one flag for each field of `BenchOptions`."""
    add_flags(parser, BenchOptions)


def main(parsed: argparse.Namespace) -> int:
    """Runs the bench and returns the exit code.

    Raises:
        UserError: an option is wrong.
    """
    try:
        options = BenchOptions.model_validate(given_values(BenchOptions, vars(parsed)))
    except ValidationError as error:
        raise UserError(f"bench: {sentence(error)}") from error
    arms = _names(options.arms or _USUAL_ARMS[options.train], "arm", TRAIN_ARMS if options.train else _timed())
    options = options.model_copy(update={"arms": ",".join(arms)})
    shapes = read_pair(options.shapes)
    parse_form(options.fuser_form)
    lengths = {name: _counts(getattr(options, name), name) for name in LISTS}
    if options.dtypes != "auto":
        _names(options.dtypes, "dtype", DTYPES)
    _open(options.output)
    from harness.channels.engine import ending_with_the_device

    with ending_with_the_device("nothing of this bench is kept, start it again in a new process"):
        (time_training if options.train else time_answers)(options, arms, shapes, lengths)
    return 0


def _timed() -> list[str]:
    """Arms outside the harness, and every channel that runs models, those of other distributions included."""
    channels = [entry.name for entry in CHANNELS if entry.build and "tuned" not in entry.needs]
    return [*ARMS, *(name for name in channels if name not in ARMS)]


def _open(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Output {str(folder)!r} cannot be made ({error.strerror}); give another --output.") from error


def _names(text: str, what: str, allowed: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name.partition(":")[0] not in allowed:
            raise unknown(what, name, allowed)
    if len(set(names)) < len(names):
        raise UserError(f"{what.capitalize()}s {text!r}: each only once.")
    return names


def _counts(text: str, flag: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--{flag} {text!r}: give whole numbers above zero with commas between, such as 64,200.")
    return [int(part) for part in parts]
