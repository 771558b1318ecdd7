"""Words of other tools, and what they are called here: the nearest spelling would be the wrong answer.

Whoever comes from lm-eval or from transformers' trainer writes theirs; each gets one sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from harness.paths import program

_BRIDGE = "python -m harness.lm_eval_bridge run"
_FEW_SHOT = f"examples are a task's own here (num_fewshot in its YAML, --tasks FILE); or use {_BRIDGE}"
_KEPT = "every answer is kept in the run's folder; leave it out"
_SHOWN = "{program} report RUN --question ID shows a question as the models read it"

_RUN = {
    "--model": "name the models: --receiver MODEL, and --sharer MODEL for one that talks to it",
    "--model_args": "give the model itself, --receiver MODEL, and settings as flags of their own, such as --dtype",
    "--pretrained": "name the models: --receiver MODEL, and --sharer MODEL for one that talks to it",
    "--revision": "write it behind the model: --receiver MODEL@REVISION",
    "--tokenizer": "a model is read with its own tokenizer; leave it out",
    "--num_fewshot": _FEW_SHOT,
    "--fewshot_as_multiturn": _FEW_SHOT,
    "--apply_chat_template": "prompts go through the chat template already; --no-chat asks without it",
    "--system_instruction": f"put it into a chat template (--receiver_chat_template FILE), or use {_BRIDGE}",
    "--log_samples": _KEPT,
    "--predict_only": f"{_KEPT}, they are scored in any case",
    "--write_out": _SHOWN,
    "--show_config": _SHOWN,
    "--use_cache": "a stopped run goes on with --resume --output_path RUN",
    "--cache_requests": "prompts are built anew each time; leave it out",
    "--include_path": "name the task's file: --tasks path/to/task.yaml",
    "--samples": "questions are drawn by the seed: --limit N --seed S",
    "--wandb_args": "results are files of the run's folder; leave it out",
    "--hf_hub_log_args": "results are files of the run's folder; leave it out",
    "--verbosity": "--no-progress silences the bar; leave it out",
}
_TRAIN = {
    "--model": "name the models: --receiver MODEL --sharer MODEL",
    "--model_name_or_path": "name the models: --receiver MODEL --sharer MODEL",
    "--output_dir": "the folder is --output_path DIR",
    "--dataset": "the data is --data NAME_OR_FILE",
    "--batch_size": "rows of one optimizer step are --global_batch N, of one forward pass --micro_batch N",
    "--per_device_train_batch_size": "rows of one forward pass are --micro_batch N",
    "--gradient_accumulation_steps": "it follows from --global_batch N and --micro_batch N",
    "--num_train_epochs": "passes over the data are --epochs N",
    "--max_steps": "optimizer steps are --steps N",
    "--lr": "the learning rate is --learning_rate X",
    "--resume_from_checkpoint": "--resume --output_path DIR goes on from the newest checkpoint",
}
_TABLES = {"run": _RUN, "train": _TRAIN}
# Flags of ours to which they give another value, or that have no effect here.
_OF_OURS = {("run", "--log_samples"): None, ("run", "--batch_size"): "auto"}
_AUTO = "name a number; a batch that does not fit is halved by itself, so a large one is safe"


def answer(command: str, words: Sequence[str], own: Collection[str]) -> str:
    """Returns the sentence for the first word of another tool; empty where there is none.

    Args:
        command: whose words these are.
        words: of the command line.
        own: spellings of the command's own flags.
    """
    table = _TABLES.get(command, {})
    for place, word in enumerate(words):
        name, _, value = word.replace("-", "_").replace("__", "--", 1).partition("=")
        value = word.partition("=")[2] or "".join(words[place + 1 : place + 2])
        if (command, name) in _OF_OURS:
            if sentence := _changed(name, value, _OF_OURS[command, name], table):
                return sentence
        elif name in table and word.partition("=")[0] not in own:
            return f"{name} is not a flag here: {_named(value) or _said(table[name])}."
        elif table and name == "pretrained" and not _is_value(words, place):
            return f"{word!r} is lm-eval's: {_named(word)}."
    return ""


def _changed(name: str, value: str, theirs: str | None, table: dict[str, str]) -> str:
    if theirs is None:
        return f"{name} has no effect: {_said(table[name])}."
    return f"{name} {value}: {_AUTO}." if value.startswith(theirs) else ""


def _said(sentence: str) -> str:
    return sentence.replace("{program}", program())


def _named(arguments: str) -> str:
    """What lm-eval's ``pretrained=X`` is called here."""
    parts = dict(part.partition("=")[::2] for part in arguments.split(","))
    if not (model := parts.get("pretrained", "")):
        return ""
    revision = f"@{parts['revision']}" if parts.get("revision") else ""
    return f"write --receiver {model}{revision}"


def _is_value(words: Sequence[str], place: int) -> bool:
    """Whether a word may belong to the flag before it."""
    before = words[place - 1] if place else ""
    return before.startswith("--") and "=" not in before
