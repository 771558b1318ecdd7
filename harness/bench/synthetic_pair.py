"""Models and a fuser with random weights at the shapes of known models, and questions for them.

A pair can be timed without its weights, and nothing is downloaded. Shapes are those of the models' published
configurations; a folder with a ``config.json`` is accepted wherever a name is.

Guarantees that the real channels run on them. The tokenizer is a real one whose words are numbers, word ``17`` being id
17, so the length of a prompt is exact to the token. Random weights cost what trained ones cost, but the texts mean
nothing and no model ever stops by itself.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

import torch

from harness.bench.model_shapes import FuserWidths, ModelShape
from harness.channels.c2c import CacheToCache, Link
from harness.errors import UserError
from harness.fusers.interface import FuserModule, config_of
from harness.fusers.layer_mapping import pair_shapes
from harness.fusers.registry import C2C, parse_form
from harness.inference.types import Query
from harness.models.chat import user_turn
from harness.models.lm import LM, kv_shape
from harness.models.loading import wrap

_TEMPLATE = "{% for m in messages %}1 2 3 {{ m.content }} 4 5 {% endfor %}1 2 6"

_FRAME_TOKENS = 8

_FIRST_WORD = 10

# Random weights grow no outliers, so the default spread of weights keeps every number finite in every dtype.
_NO_STOP = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}


@dataclass(frozen=True, eq=False)
class Models:
    """A receiver and a sharer."""

    receiver: LM
    sharer: LM

    @property
    def words(self) -> int:
        """Words that both tokenizers know."""
        return min(len(self.receiver.tokenizer), len(self.sharer.tokenizer))


@dataclass(frozen=True, eq=False)
class Pair(Models):
    """A receiver, a sharer and a fuser whose gates are all open."""

    fuser: FuserModule

    def c2c(self) -> CacheToCache:
        """The channel between the two."""
        return CacheToCache(self.receiver, (Link(self.sharer, self.fuser),))


def build_pair(
    shapes: tuple[ModelShape, ModelShape],
    dtype: torch.dtype,
    device: torch.device,
    widths: FuserWidths,
    form: str = C2C,
) -> Pair:
    """Builds both models and the fuser, `form` being ``name[:option=value]...``.

    Raises:
        UserError: a local configuration cannot be built, or the fuser's form or one of its options is unknown.
    """
    models = build_models(shapes, dtype, device)
    with torch.device(device):
        fuser = _fuser(models.receiver, models.sharer, widths, form)
    fuser.open_gates()
    return Pair(models.receiver, models.sharer, fuser.to(dtype).eval().requires_grad_(False))


def build_models(shapes: tuple[ModelShape, ModelShape], dtype: torch.dtype, device: torch.device) -> Models:
    """Builds both models alone.

    Raises:
        UserError: a local configuration cannot be built.
    """
    configs = [_config(shape) for shape in shapes]
    sizes = _vocabularies(configs)
    made = [_model(config, dtype, device) for config in configs]
    return Models(*(wrap(m, tokenizer(size)) for m, size in zip(made, sizes, strict=True)))


def tokenizer(words: int) -> Any:
    """A fast tokenizer that writes the numbers from 1 to `words - 1`, each as its own id; 0 is unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<0>": 0} | {str(i): i for i in range(1, words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<0>"))  # noqa: S106 - a word, not a secret
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<0>", pad_token="<0>")  # noqa: S106 - a word
    wrapped.chat_template = _TEMPLATE
    return wrapped


def questions(pair: Models, rows: int, prompt_tokens: int, options: tuple[int, int], rng: random.Random) -> list[Query]:
    """Random questions whose prompts have exactly `prompt_tokens` tokens; `options` are how many, and their tokens.

    Raises:
        UserError: the template alone is longer.
    """
    if prompt_tokens <= _FRAME_TOKENS:
        raise UserError(f"Prompt length {prompt_tokens}: give more than {_FRAME_TOKENS}, the template's own tokens.")
    return [_question(pair, prompt_tokens - _FRAME_TOKENS, options, rng) for _ in range(rows)]


def _question(pair: Models, words: int, options: tuple[int, int], rng: random.Random) -> Query:
    text = _words(pair, words, rng)
    choices = tuple(" " + _words(pair, options[1], rng) for _ in range(options[0]))
    return Query(user_turn(text), question=text, choices=choices, t2t_prompt="{question}")


def _words(pair: Models, count: int, rng: random.Random) -> str:
    return " ".join(str(rng.randrange(_FIRST_WORD, pair.words)) for _ in range(count))


def _config(shape: ModelShape) -> Any:
    from transformers import AutoConfig

    if shape.folder is None:
        return AutoConfig.for_model(shape.architecture, **(shape.settings or {}))
    try:
        return AutoConfig.from_pretrained(shape.folder).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"Shapes {shape.name!r}: its config.json cannot be read ({error}).") from error


def _vocabularies(configs: list[Any]) -> list[int]:
    """Models of one family share a vocabulary, though they pad the embedding to different sizes."""
    families = {re.sub(r"\d.*", "", c.model_type) for c in configs}
    sizes = [int(c.vocab_size) for c in configs]
    return [min(sizes)] * 2 if len(families) == 1 else sizes


def _model(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    for name, value in _NO_STOP.items():
        setattr(config, name, value)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def _fuser(receiver: LM, sharer: LM, widths: FuserWidths, form: str) -> FuserModule:
    entry, options = parse_form(form)
    if entry.name == C2C:
        named = {"hidden_dim": widths.hidden, "intermediate_dim": widths.intermediate, "num_layers": widths.layers}
        options = {**named, **options}
    kind = entry.load()
    return kind(config_of(kind, pair_shapes(kv_shape(receiver.config), kv_shape(sharer.config)), options))
