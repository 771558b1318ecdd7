"""``bench``: times the channels, or training, at the shapes of a pair; its flags, checked before anything is built."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.bench.model_shapes import EXAMPLES, read_pair
from harness.channels.registry import CHANNELS
from harness.config.fields import Count, CountOrZero
from harness.config.flags import add_flags, given_values
from harness.config.loading import error_sentence
from harness.errors import UserError, unknown
from harness.fusers.registry import C2C, parse_form

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
        raise UserError(f"bench: {error_sentence(error)}") from error
    arms = _names(options.arms or _USUAL_ARMS[options.train], "arm", TRAIN_ARMS if options.train else _timed())
    options = options.model_copy(update={"arms": ",".join(arms)})
    shapes = read_pair(options.shapes)
    parse_form(options.fuser_form)
    lengths = {name: _counts(getattr(options, name), name) for name in LISTS}
    if options.dtypes != "auto":
        _names(options.dtypes, "dtype", DTYPES)
    _open(options.output)
    from harness.bench.run import time_answers, time_training
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
