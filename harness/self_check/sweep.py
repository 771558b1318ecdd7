"""Every causal language model of the installed transformers, tiny and random, through the self-check and beyond.

Guarantees for each one of three outcomes: equal to plain forward calls of transformers (alone, in a batch, with
options, in decoding), refused in the sentence that a user would read, or named as one that transformers does not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.attention import register
from harness.errors import UserError
from harness.self_check.check import checked
from harness.self_check.compare import TOLERANCE, Plain, decoding_gap, options_gap, sequences
from harness.self_check.small import small_config, small_model
from harness.self_check.verdict import small_lm

HEAD = "| model type | attention | outcome | largest difference, nats |\n|---|---|---|---|"
_OTHER_SEED = 7  # not the sequences that the self-check reads itself
# What a default configuration lacks for a decoder that runs.
_ADDED: dict[str, dict[str, Any]] = {
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_routed_experts": 4},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "num_dense_layers": 1},
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        model_type: transformers' name.
        attention: the implementation that was used.
        outcome: how it is read, or why it is not.
        gap: largest difference in nats; None where it is not read.
    """

    model_type: str
    attention: str
    outcome: str
    gap: float | None = None

    @property
    def right(self) -> bool:
        """Whether it is either equal or refused."""
        return self.gap is None or self.gap <= TOLERANCE


def swept(names: Sequence[str] = (), attention: str | None = None) -> Iterator[Row]:
    """Yields a row an architecture.

    Args:
        names: model types; empty for all that transformers maps to a causal language model.
        attention: the implementation; None takes sdpa, and eager where that is refused.
    """
    register()
    for name in names or model_types():
        rows = [_row(name, one) for one in ([attention] if attention else ["sdpa"])]
        if attention is None and rows[0].gap is None and "eager" in rows[0].outcome:
            rows = [_row(name, "eager")]
        yield rows[0]


def model_types() -> list[str]:
    """Names of the causal language models of the installed transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(name: str, attention: str, **changes: Any) -> Any:
    """Builds a tiny random model of a type, from its default configuration and `changes`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = CONFIG_MAPPING[name]
    decoder = {"is_decoder": True} if hasattr(kind, "is_decoder") else {}
    config = kind(**{**decoder, **_ADDED.get(name, {}), **changes})
    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    architecture = found[0] if isinstance(found, tuple) else found
    if architecture.config_class is not type(config):
        config = config.get_text_config()
    return small_model(architecture, small_config(config), attention)


def _row(name: str, attention: str) -> Row:
    try:
        eager, model = tiny(name, "eager"), None
        asked = sequences(int(eager.config.get_text_config().vocab_size), _OTHER_SEED)
        plain = Plain(eager, asked)
    except Exception as error:
        return Row(name, attention, f"transformers does not run it so: {type(error).__name__}: {_short(error)}")
    try:
        model = tiny(name, attention)
    except Exception as error:
        if "does not support" in str(error):
            return Row(name, attention, f"refused: it does not go with {attention}; use --attention eager")
        raise
    try:
        lm = checked(small_lm(model))
    except UserError as error:
        return Row(name, attention, f"refused: {str(error).partition('cannot be used: ')[2]}")
    every = range(len(asked.rows))
    gaps = [decoding_gap(lm, plain, asked, [row]) for row in every]
    gaps += [decoding_gap(lm, plain, asked, every), options_gap(lm, plain, asked, every, side_by_side=True)]
    return Row(name, attention, lm.together.checked, max(gaps))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:80]


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as Markdown."""
    return "\n".join([HEAD, *map(line, rows)])


def line(row: Row) -> str:
    """Returns one row as Markdown."""
    gap = "" if row.gap is None else f"{row.gap:.0e}"
    return f"| {row.model_type} | {row.attention} | {row.outcome.replace('|', '/')} | {gap} |"
