"""``bench``: times the channels at the shapes of a pair and writes JSON, Markdown and a plot.

Guarantees that options are checked before anything is built, and that importing this costs nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench.shapes import EXAMPLES, read_pair
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.bench.results import Bench, Cell

ARMS = ("transformers", "receiver", "sharer", "t2t", "c2c", "lm_eval")
DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags; lists are written with commas."""
    add = parser.add_argument
    add("--shapes", default=EXAMPLES[1], help=f"receiver+sharer: names or folders, such as {', '.join(EXAMPLES)}")
    add("--arms", default="transformers,receiver,t2t,c2c", help=f"some of {', '.join(ARMS)}")
    add("--prompt_tokens", default="200", help="prompt lengths, template included")
    add("--batch_sizes", default="1", help="questions answered at once")
    add("--new_tokens", default="8", help="tokens decoded for each question")
    add("--dtypes", default="auto", help=f"some of {', '.join(DTYPES)}; auto: bfloat16 on a GPU, else float32")
    add("--message_tokens", type=int, default=64, help="tokens that a text sharer writes")
    add("--options", type=int, default=0, help="also score this many options a question (0: none)")
    add("--option_tokens", type=int, default=4, help="tokens of an option")
    add("--repeats", type=int, default=5, help="rounds that count")
    add("--warm_up", type=int, default=1, help="rounds before them; the first one measures memory")
    add("--fuser_hidden", type=int, default=1024, help="width of the fuser")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--seed", type=int, default=0, help="of weights and questions")
    add("--output", type=Path, default=Path("bench"), help="folder for bench.json, bench.md and bench.png")


def main(options: argparse.Namespace) -> int:
    """Runs the bench and returns the exit code.

    Raises:
        UserError: an option is wrong.
    """
    arms = _names(options.arms, "arm", ARMS)
    shapes = read_pair(options.shapes)
    _check_counts(options)
    lengths = {name: _counts(getattr(options, name), name) for name in ("prompt_tokens", "batch_sizes", "new_tokens")}
    if options.dtypes != "auto":
        _names(options.dtypes, "dtype", DTYPES)
    _open(options.output)
    bench = _run(options, arms, shapes, lengths)
    _write(bench, options.output)
    return 0


def _run(options: argparse.Namespace, arms: list[str], shapes: Any, lengths: dict[str, list[int]]) -> Bench:
    import torch

    from harness.bench.arms import make_arms
    from harness.bench.build import FuserWidths, build_pair
    from harness.bench.measure import Repeats, measure
    from harness.bench.results import Bench
    from harness.models import pick_device, pick_dtype

    device = pick_device(options.device)
    results, speeds = [], {}
    for wanted in options.dtypes.split(","):
        dtype = pick_dtype(wanted, device)
        torch.manual_seed(options.seed)
        widths = FuserWidths(options.fuser_hidden, options.fuser_hidden)
        pair = build_pair(shapes, dtype, device, widths)
        made = make_arms(pair, arms, options.message_tokens)
        for cell in _cells(str(dtype).removeprefix("torch."), lengths, options.options > 0):
            repeats = Repeats(options.repeats, options.warm_up)
            found = measure(pair, made, cell, (options.options, options.option_tokens), repeats, options.seed)
            results += found.results
            speeds[cell.dtype] = vars(found.speeds)
            _tell(found.results)
    return Bench(_about(options), speeds, tuple(results))


def _cells(dtype: str, lengths: dict[str, list[int]], scoring: bool) -> Iterator[Cell]:
    from harness.bench.results import Cell

    for prompt in lengths["prompt_tokens"]:
        for batch in lengths["batch_sizes"]:
            for new in [*lengths["new_tokens"], *[0] * scoring]:
                yield Cell(dtype, prompt, batch, new)


def _tell(results: Sequence[Any]) -> None:
    from harness.bench.table import heading

    said = ", ".join(f"{r.arm} {r.total.median_s:.3f} s ({r.total.ratio:.2f}x floor)" for r in results)
    print(f"{heading(results[0].cell)}: {said}", flush=True)


def _about(options: argparse.Namespace) -> dict[str, Any]:
    from harness.records.hardware import hardware
    from harness.records.provenance import packages

    settings = {name: str(value) for name, value in vars(options).items() if isinstance(value, str | int | Path)}
    machine = hardware().model_dump(exclude_none=True)
    return {"settings": settings, "hardware": machine, "packages": packages()}


def _open(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Output {str(folder)!r} cannot be made ({error.strerror}); give another --output.") from error


def _write(bench: Bench, folder: Path) -> None:
    from harness.bench.plot import plot
    from harness.bench.table import markdown
    from harness.records.files import write_atomic

    write_atomic(folder / "bench.json", json.dumps(bench.as_dict(), indent=1, allow_nan=False) + "\n")
    write_atomic(folder / "bench.md", markdown(bench))
    plot(bench.results, folder / "bench.png")
    print(f"Wrote bench.json, bench.md and bench.png to {folder}.")


def _names(text: str, what: str, allowed: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in allowed:
            raise unknown(what, name, allowed)
    if len(set(names)) < len(names):
        raise UserError(f"{what.capitalize()}s {text!r}: each only once.")
    return names


def _counts(text: str, flag: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--{flag} {text!r}: give whole numbers above zero with commas between, such as 64,200.")
    return [int(part) for part in parts]


def _check_counts(options: argparse.Namespace) -> None:
    least = {"repeats": 1, "warm_up": 0, "message_tokens": 1, "options": 0, "option_tokens": 1, "fuser_hidden": 1}
    for name, minimum in least.items():
        if getattr(options, name) < minimum:
            raise UserError(f"--{name} {getattr(options, name)}: give at least {minimum}.")
