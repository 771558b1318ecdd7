"""Builds what a bench times, times it and writes JSON, Markdown and a plot.

Guarantees that models are built once for each number format, and that everything written follows from the raw values.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.bench.candidates import make_arms
from harness.bench.measure import Repeats, measure
from harness.bench.model_shapes import FuserWidths, ModelShape
from harness.bench.results import Bench, Cell, Found, Result, TrainCell, TrainResult
from harness.bench.synthetic_pair import build_models, build_pair
from harness.bench.tables import heading_of_axis, markdown, plot, plot_training, train_heading, train_markdown
from harness.bench.training import make_train_arms, measure_training
from harness.models.loading import pick_device, pick_dtype
from harness.records.files import write_atomic
from harness.records.provenance import hardware, packages

if TYPE_CHECKING:
    from harness.bench.main import BenchOptions

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
            _tell(heading_of_axis(cell), found.results)
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
