"""``bench``: times the channels, or training, at the shapes of a pair and writes JSON, Markdown and a plot.

Guarantees that options are checked before anything is built, and that importing this costs nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.bench.shapes import EXAMPLES, read_pair
from harness.channels.registry import CHANNELS
from harness.errors import UserError, unknown
from harness.fusion.registry import C2C, parse_form

ARMS = ("transformers", "receiver", "sharer", "t2t", "c2c", "lm_eval")
TRAIN_ARMS = ("plain", "checkpointing", "kept", "kept+checkpointing")
LISTS = ("prompt_tokens", "response_tokens", "batch_sizes", "new_tokens")
_USUAL_ARMS = {False: "transformers,receiver,t2t,c2c", True: "plain,checkpointing,kept"}
DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags; lists are written with commas."""
    add = parser.add_argument
    add("--shapes", default=EXAMPLES[1], help=f"receiver+sharer: names or folders, such as {', '.join(EXAMPLES)}")
    add("--train", action="store_true", help="time optimizer steps of fuser training instead of answers")
    add(
        "--arms",
        help=f"some of {', '.join(ARMS)}, or any channel (default {_USUAL_ARMS[False]}), with --train of "
        f"{', '.join(TRAIN_ARMS)} (default {_USUAL_ARMS[True]})",
    )
    add("--prompt_tokens", default="200", help="prompt lengths, template included")
    add("--batch_sizes", default="1", help="questions answered at once; with --train rows of a micro batch")
    add("--new_tokens", default="8", help="tokens decoded for each question")
    add("--response_tokens", default="256", help="with --train: tokens of each row that are learned")
    add("--micro_batches", type=int, default=1, help="with --train: micro batches of an optimizer step")
    add("--dtypes", default="auto", help=f"some of {', '.join(DTYPES)}; auto: bfloat16 on a GPU, else float32")
    add("--message_tokens", type=int, default=64, help="tokens that a text sharer writes")
    add("--options", type=int, default=0, help="also score this many options a question (0: none)")
    add("--option_tokens", type=int, default=4, help="tokens of an option")
    add("--repeats", type=int, default=5, help="rounds that count")
    add("--warm_up", type=int, default=1, help="rounds before them; the first one measures memory")
    add("--fuser_form", default=C2C, help="form of the fuser with its options: name[:option=value]...")
    add("--fuser_hidden", type=int, default=1024, help="width of the C2C fuser")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--seed", type=int, default=0, help="of weights and questions")
    add("--output", type=Path, default=Path("bench"), help="folder for bench.json, .md and .png (train.json, ...)")


def main(options: argparse.Namespace) -> int:
    """Runs the bench and returns the exit code.

    Raises:
        UserError: an option is wrong.
    """
    options.arms = options.arms or _USUAL_ARMS[options.train]
    arms = _names(options.arms, "arm", TRAIN_ARMS if options.train else _timed())
    shapes = read_pair(options.shapes)
    parse_form(options.fuser_form)
    _check_counts(options)
    lengths = {name: _counts(getattr(options, name), name) for name in LISTS}
    if options.dtypes != "auto":
        _names(options.dtypes, "dtype", DTYPES)
    _open(options.output)
    from harness.attempts import ending_with_the_device
    from harness.bench.run import time_answers, time_training

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


def _check_counts(options: argparse.Namespace) -> None:
    least = {"repeats": 1, "warm_up": 0, "message_tokens": 1, "options": 0, "option_tokens": 1, "fuser_hidden": 1}
    least["micro_batches"] = 1
    for name, minimum in least.items():
        if getattr(options, name) < minimum:
            raise UserError(f"--{name} {getattr(options, name)}: give at least {minimum}.")
