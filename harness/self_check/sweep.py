"""Every causal language model of the installed transformers, tiny and random, through the self-check and beyond.

Guarantees for each one of three outcomes: equal to plain forward calls of transformers (alone, in a batch, with
options, in decoding), refused in the sentence that a user would read, or named as one that transformers does not run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import UserError
from harness.models.grouped_attention import register
from harness.models.lm import LM
from harness.models.loading import EAGER, PLAIN_CACHE, unusual_cache
from harness.self_check.check import checked, small_lm
from harness.self_check.compare import TOLERANCE, Plain, Sequences, decoding_gap, options_gap, probe_sequences
from harness.self_check.small import small_config, small_model

HEAD = "| model type | attention | verdict | detail | largest difference, nats |\n|---|---|---|---|---|"
VERDICTS = EQUAL, ONE_BY_ONE, REFUSED, NOT_BUILT, WRONG = "equal", "one by one", "refused", "not built", "wrong"
_OTHER_SEED = 7  # not the sequences that the self-check reads itself
# What a default configuration lacks for a decoder that runs.
_ADDED: dict[str, dict[str, Any]] = {
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 8},
    "reformer": {"axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
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
        verdict: `EQUAL`, `ONE_BY_ONE`, `REFUSED`, `NOT_BUILT` or `WRONG`.
        detail: how it is read, or why it is not.
        gap: largest difference in nats; None where it is not read.
        seconds: CPU time of this process.
    """

    model_type: str
    attention: str
    verdict: str
    detail: str
    gap: float | None = None
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        """Whether nothing would be answered that differs from transformers."""
        return self.verdict != WRONG


def sweep_architectures(names: Sequence[str] = (), attention: str | None = None) -> Iterator[Row]:
    """Yields a row an architecture.

    Args:
        names: model types; empty for all that transformers maps to a causal language model.
        attention: the implementation; None takes sdpa, and eager where that is refused.
    """
    register()
    for name in names or model_types():
        row = _row(name, attention or "sdpa")
        if attention is None and row.verdict == REFUSED and EAGER in row.detail:
            row = _row(name, "eager")
        yield row


def model_types() -> list[str]:
    """Names of the causal language models of the installed transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def configuration(name: str, **changes: Any) -> Any:
    """The default configuration of a type as a decoder, with `changes`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    decoder = {"is_decoder": True} if hasattr(kind, "is_decoder") else {}
    return kind(**{**decoder, **_ADDED.get(name, {}), **changes})


def tiny_model(name: str, attention: str, **changes: Any) -> Any:
    """Builds a tiny random model of a type, from its default configuration and `changes`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = configuration(name, **changes)
    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    architecture = found[0] if isinstance(found, tuple) else found
    if architecture.config_class is not type(config):
        config = config.get_text_config(decoder=True)
    return small_model(architecture, small_config(config), attention)


def _row(name: str, attention: str) -> Row:
    started = time.process_time()
    found = _outcome(name, attention)
    return replace(found, seconds=time.process_time() - started)


def _outcome(name: str, attention: str) -> Row:
    """Never raises: one type that fails is one line of the table."""
    try:
        eager = tiny_model(name, "eager")
        asked = probe_sequences(int(eager.config.get_text_config(decoder=True).vocab_size), _OTHER_SEED)
        plain = Plain(eager, asked)
    except Exception as error:
        return _not_built(name, attention, _short(error))
    try:
        model = tiny_model(name, attention)
    except Exception as error:
        return Row(name, attention, REFUSED, f"--attention {attention} does not go with it ({_short(error)}); {EAGER}")
    try:
        return _read(name, attention, small_lm(model), plain, asked)
    except Exception as error:
        return Row(name, attention, WRONG, f"it fails after the self-check has passed ({_short(error)})")


def _not_built(name: str, attention: str, why: str) -> Row:
    """A type whose configuration is enough for a refusal is refused also where no small copy of it runs."""
    try:
        unusual = unusual_cache(configuration(name).get_text_config(decoder=True))
    except Exception:
        unusual = None
    if unusual is not None:
        return Row(name, attention, REFUSED, f"{unusual}; {PLAIN_CACHE}")
    return Row(name, attention, NOT_BUILT, why)


def _read(name: str, attention: str, lm: LM, plain: Plain, asked: Sequences) -> Row:
    try:
        lm = checked(lm)
    except UserError as error:
        return Row(name, attention, REFUSED, str(error).partition("cannot be used: ")[2].rstrip("."))
    every = range(len(asked.rows))
    gaps = [decoding_gap(lm, plain, asked, [row]) for row in every]
    gaps += [decoding_gap(lm, plain, asked, every), options_gap(lm, plain, asked, every, side_by_side=True)]
    kind = EQUAL if lm.together.padded and lm.together.branched else ONE_BY_ONE
    return Row(name, attention, kind if max(gaps) <= TOLERANCE else WRONG, lm.together.checked, max(gaps))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as Markdown."""
    return "\n".join([HEAD, *map(markdown_row, rows)])


def markdown_row(row: Row) -> str:
    """Returns one row as Markdown."""
    gap = "" if row.gap is None else f"{row.gap:.0e}"
    return f"| {row.model_type} | {row.attention} | {row.verdict} | {row.detail.replace('|', '/')} | {gap} |"


def count_verdicts(rows: Sequence[Row]) -> str:
    """Counts the verdicts, and names what is wrong and what took longest."""
    counts = Counter(row.verdict for row in rows)
    told = ", ".join(f"{counts[one]} {one}" for one in VERDICTS if counts[one])
    wrong = "".join(f" {row.model_type}" for row in rows if not row.right)
    slowest = max(rows, key=lambda row: row.seconds)
    seconds = f"{sum(row.seconds for row in rows):.0f} s of CPU time, {slowest.model_type} {slowest.seconds:.1f} s"
    return f"{len(rows)} architectures: {told}; {seconds}" + (f"; wrong:{wrong}" if wrong else "")
