"""What the models behind lm-eval accept as arguments: each its own, and no others.

Guarantees that an argument has an effect or is refused by its name, that two spellings of one argument are never given
together, and that what users write for lm-eval's `hf` means here what it means there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.channels.registry import ALIASES, CHANNELS, ChannelEntry
from harness.channels.spec import parse_channel, spec_text
from harness.config import RunConfig, build
from harness.errors import UserError, suggest
from harness.models.chat import Reading
from harness.paths import locate
from harness.registry import load_plugins

AS_LM_EVAL = Reading(as_lm_eval=True)


_DEFAULT_BATCH = 8

_LARGEST_BATCH = 64  # lm-eval's own bound for batch_size=auto

# lm-eval asks for this device unless a user names another, also where there is none.
LM_EVALS_DEVICE = "cuda:0"

LM_EVALS_DEFAULTS: Mapping[str, Any] = {"device": LM_EVALS_DEVICE, "batch_size": 1}


@dataclass(frozen=True)
class Setup:
    """A model behind lm-eval as its arguments describe it.

    Attributes:
        config: what is loaded.
        batch_size: requests at once.
        reading: how prompts become tokens.
        latency_samples: requests of each task that are timed alone after the run.
        latency_warm_up: requests answered before timing starts.
    """

    config: RunConfig
    batch_size: int = _DEFAULT_BATCH
    reading: Reading = AS_LM_EVAL
    latency_samples: int = 0
    latency_warm_up: int = 3


@dataclass(frozen=True)
class Argument:
    """One argument.

    Attributes:
        name: in messages.
        spellings: other names that it goes by.
        read: checks and converts its value; called with the name that the user wrote.
        field: of `RunConfig`, where it is handed on under another name.
        own: it is none of `RunConfig`'s; `setup_of` puts it where it belongs.
    """

    name: str
    spellings: tuple[str, ...] = ()
    read: Callable[[str, Any], Any] = lambda name, value: value
    field: str = ""
    own: bool = False


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool | float) or not str(value):
        raise UserError(f"model_args: {name} is {value!r}, but has to be text; put a number that is a name in quotes.")
    return str(value)


def _texts(name: str, value: Any) -> list[str]:
    return [part.strip() for part in _text(name, value).split(";")]


def _one_text(name: str, value: Any) -> list[str]:
    names = _texts(name, value)
    if len(names) > 1:
        raise UserError(f"model_args: {name} names {len(names)} models, but one writes the text; keep one.")
    return names


def _type_name(name: str, value: Any) -> str:
    return str(value).removeprefix("torch.")


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"model_args: {name} is {value!r}, but has to be True or False.")
    return value


def _whole(least: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not text.isdecimal() or int(text) < least:
            raise UserError(f"{name} is {value!r}, but has to be a whole number from {least}.")
        return int(text)

    return read


def _batch(name: str, value: Any) -> int | None:
    if isinstance(value, str) and value.partition(":")[0] == "auto":
        return None
    try:
        return _whole(1)(name, value)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}, or auto.") from None


ONE_MODEL = (
    Argument("receiver", ("pretrained", "path"), read=_text),
    Argument("plugin", read=_texts, own=True),
    Argument("revision", read=_text, own=True),
    Argument("gguf_file", read=_text, own=True),
    Argument("peft", read=_text),
    Argument("dtype", read=_type_name),
    Argument("max_length", read=_whole(1)),
    Argument("attention", ("attn_implementation",)),
    Argument("trust_remote_code", read=_switch),
    Argument("receiver_chat_template", read=_text),
    Argument("enable_thinking", read=_switch, own=True),
    Argument("add_bos_token", read=_switch, own=True),
    Argument("prefix_token_id", read=_whole(0), own=True),
    Argument("device", read=_text),
    Argument("device_map"),
    Argument("parallelize", read=_switch, own=True),
    Argument("tensor_parallel", read=_switch),
    Argument("batch_size", read=_batch, own=True),
    Argument("max_batch_size", read=_whole(1), own=True),
    Argument("max_batch_tokens", read=_whole(1)),
    Argument("latency_samples", read=_whole(0), own=True),
    Argument("latency_warm_up", read=_whole(0), own=True),
)

_SHARER_TEMPLATE = Argument("sharer_chat_template", read=_text)

ONE_SHARER = (Argument("sharer", ("sharers",), read=_one_text, field="sharers"), _SHARER_TEMPLATE)

SEVERAL_SHARERS = (Argument("sharer", ("sharers",), read=_texts, field="sharers"), _SHARER_TEMPLATE)

_FUSER = Argument("fuser", ("fusers",), read=_texts, field="fusers")

_TUNED = Argument("tuned", read=_text)

# Every spelling of what names models, whichever channel takes it -> its name.
SPELLINGS: Mapping[str, str] = {
    spelling: argument.name
    for argument in (*ONE_MODEL, *SEVERAL_SHARERS, _FUSER, _TUNED)
    for spelling in (argument.name, *argument.spellings)
}

# Options of channels under the names that they had before they were the channels' own.
_RETIRED = {"t2t_tokens": "max_new_tokens", "fusion_mode": "mode"}


@dataclass(frozen=True)
class Model:
    """A model behind lm-eval: its name there, the channel that answers, and what it accepts."""

    name: str
    entry: ChannelEntry
    arguments: tuple[Argument, ...]
    needs: tuple[str, ...] = ("receiver",)
    by_spelling: Mapping[str, Argument] = field(init=False)

    def __post_init__(self) -> None:
        """Indexes the arguments."""
        spelled = {spelling: a for a in self.arguments for spelling in (a.name, *a.spellings)}
        object.__setattr__(self, "by_spelling", spelled)


def model_of(name: str) -> Model:
    """Returns the model of a channel: the arguments of its models, of what it needs, and its own options.

    Raises:
        UserError: there is no such channel, it has no models of its own, or an option has the name of an argument.
    """
    entry = CHANNELS.get(ALIASES.get(name, name))
    if not entry.build:
        raise UserError(f"Channel {name} answers nothing by itself, so it is no model for lm-eval; use run.")
    sharers = (SEVERAL_SHARERS if entry.several_sharers else ONE_SHARER) if "sharer" in entry.needs else ()
    more = tuple(argument for need, argument in (("fuser", _FUSER), ("tuned", _TUNED)) if need in entry.needs)
    options = tuple(Argument(option, own=True) for option in entry.options.model_fields)
    arguments = (*ONE_MODEL, *sharers, *more, *options)
    names = [argument.name for argument in arguments]
    if clash := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"Channel {name} has an option {clash!r}, which is an argument of every model; rename it.")
    return Model(name, entry, arguments, ("receiver", *(n for n in ("sharer", "fuser", "tuned") if n in entry.needs)))


SINGLE, T2T, C2C = map(model_of, ("single", "t2t", "c2c"))


def setup_of(model: Model, given: Mapping[str, Any]) -> Setup:
    """Reads the arguments of a model.

    Args:
        model: whose they are.
        given: lm-eval's ``model_args`` with its ``batch_size``, ``max_batch_size`` and ``device``; None is not given.

    Raises:
        UserError: one is not the model's, has a wrong value or no effect, or two contradict each other.
    """
    read = _read(model, given)
    load_plugins(read.pop("plugin", ()))
    if missing := [name for name in model.needs if name not in read]:
        raise UserError(
            f"model_args of {model.name} needs {'=..., '.join(missing)}=...; several sharers or fusers of c2c are "
            "joined by ';'."
        )
    spec = _spec(model, read)
    own = {a.name: read.pop(a.name) for a in model.arguments if a.own and a.name in read}
    read["receiver"] = _reference(read["receiver"], own.pop("revision", None), own.pop("gguf_file", None))
    _place(read, own.pop("parallelize", False))
    values = {(model.by_spelling[name].field or name): value for name, value in read.items()}
    # lm-eval says with every request whether it is a chat, so a model without a template is no error yet.
    fixed = {"channels": [spec], "controls": [], "tasks": ["given-by-lm-eval"], "chat": False}
    config = build({**fixed, **values}, "model_args")
    return Setup(
        config,
        batch_size=_batch_size(own, config),
        reading=replace(
            AS_LM_EVAL,
            thinking=own.get("enable_thinking"),
            add_bos=own.get("add_bos_token"),
            start=own.get("prefix_token_id"),
        ),
        latency_samples=own.get("latency_samples", 0),
        latency_warm_up=_warm_up(own),
    )


def join_arguments(given: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Joins ``model_args`` with lm-eval's flags ``--batch_size``, ``--max_batch_size`` and ``--device``.

    Raises:
        UserError: both say something else, and the flag's value is not the one that lm-eval fills in by itself.
    """
    for name, value in flags.items():
        if value is None or given.get(name) is None:
            continue
        if str(value) not in (str(given[name]), str(LM_EVALS_DEFAULTS.get(name))):
            raise UserError(f"model_args has {name}={given[name]}, but --{name} is {value}; keep one of them.")
    return {**flags, **{name: value for name, value in given.items() if value is not None}}


def _read(model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    written: dict[str, str] = {}
    for spelling, value in given.items():
        if value is None:
            continue
        argument = model.by_spelling.get(spelling)
        if argument is None:
            raise _refused(model, spelling)
        if argument.name in written:
            raise UserError(
                f"model_args gives {written[argument.name]} and {spelling}, which both name the {argument.name}; "
                "keep one of them."
            )
        written[argument.name] = spelling
        read[argument.name] = argument.read(spelling, value)
    return read


def _spec(model: Model, read: dict[str, Any]) -> str:
    """The channel with its options, which are taken out of the arguments."""
    options = {name: read.pop(name) for name in model.entry.options.model_fields if name in read}
    for name, value in options.items():
        if ":" in str(value):
            raise UserError(f"model_args: {name} is {str(value)[:40]!r}, but takes one value without a colon.")
    return parse_channel(spec_text({model.entry.name: options})).text


def _refused(model: Model, spelling: str) -> UserError:
    if _RETIRED.get(spelling) in model.by_spelling:
        return UserError(f"model_args has {spelling}, which is {_RETIRED[spelling]} of {model.name} now; write that.")
    names = [argument.name for argument in model.arguments]
    return UserError(
        f"model_args has {spelling[:40]}, which {model.name} does not take; it takes {', '.join(names)}."
        f"{suggest(spelling, model.by_spelling)} What lm-eval decides has flags of its own, another engine is another "
        "--model."
    )


def _reference(receiver: str, revision: str | None, gguf_file: str | None) -> str:
    """The receiver's reference with its revision and file, which `hf` takes apart from it."""
    folder = locate(receiver)
    if gguf_file is not None:
        if not folder.is_dir() or revision is not None:
            raise UserError(
                f"gguf_file={gguf_file} names a file in a folder of this machine, and {receiver!r} is none; fetch the "
                "file and give its path."
            )
        return str(folder / Path(gguf_file))
    if revision is None:
        return receiver
    if folder.exists():
        raise UserError(f"revision={revision} has no effect on {receiver!r}, which lies on this machine; leave it out.")
    name, at, pinned = receiver.partition("@")
    if at and pinned != revision:
        raise UserError(f"revision={revision} contradicts {receiver!r}; keep one of them.")
    return f"{name}@{revision}"


def _place(read: dict[str, Any], parallelize: bool) -> None:
    """Spreads the models where that is asked, and leaves lm-eval's usual device out where it is not there."""
    if parallelize:
        if "device_map" in read:
            raise UserError("model_args gives parallelize and device_map, which both place the model; keep one.")
        read["device_map"] = "auto"
    if read.get("device") != LM_EVALS_DEVICE:
        return
    import torch

    if read.get("device_map") or read.get("tensor_parallel"):
        del read["device"]
    elif not torch.cuda.is_available():
        read["device"] = "cpu"


def _batch_size(own: Mapping[str, Any], config: RunConfig) -> int:
    """How many requests go together; ``auto`` begins with the largest batch, which is halved where memory is short."""
    automatic = "batch_size" in own and own["batch_size"] is None
    if "max_batch_size" in own and not automatic:
        raise UserError("max_batch_size bounds batch_size=auto and has no effect on a number; leave it out.")
    if not automatic:
        return int(own.get("batch_size", _DEFAULT_BATCH))
    if "max_batch_size" in own:
        return int(own["max_batch_size"])
    import torch

    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    return _LARGEST_BATCH if on_gpu else _DEFAULT_BATCH


def _warm_up(own: Mapping[str, Any]) -> int:
    if "latency_warm_up" in own and not own.get("latency_samples"):
        raise UserError("latency_warm_up has no effect without latency_samples; give both or neither.")
    return int(own.get("latency_warm_up", Setup.latency_warm_up))
