"""Where the trained weights behind a page's rows come from: a line each, and what the lines of a part share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from harness.leaderboard.escape import markdown
from harness.leaderboard.reading import Entry
from harness.records.schema import RunRecord

_SHOWN = {"trained_parameters", "seed", "steps", "global_batch", "learning_rate", "data_fingerprint"}
FUSER, SELF_FUSER, ADAPTER = "fuser", "self-fuser", "adapter"
_DIGITS = 12


class Origin(NamedTuple):
    """Weights of a run that were trained, and what their file says of it.

    Attributes:
        reference: by name.
        part: `FUSER`, `SELF_FUSER`, `ADAPTER` (the receiver fine-tuned alone), or an adapter inside another model.
        fingerprint: of the files.
        training: empty where the file says nothing.
    """

    reference: str
    part: str
    fingerprint: str
    training: Mapping[str, Any]


def origins(entries: Iterable[Entry], task: str) -> list[Origin]:
    """Returns every trained part of the runs that answered a task, each once; without those that say nothing."""
    ours = (entry.record.run for entry in entries if any(row.task == task for row in entry.rows))
    found = {origin.fingerprint: origin for run in ours for origin in trained_parts(run) if origin.training}
    return sorted(found.values(), key=lambda one: (one.part, one.reference, one.fingerprint))


def trained_parts(run: RunRecord) -> Iterator[Origin]:
    """Yields a run's fusers, then its models; one that was not fine-tuned says nothing."""
    for fuser in run.fusers:
        part = SELF_FUSER if fuser.get("role") == "self" else FUSER
        told = fuser.get("training")
        named = str(fuser.get("reference", "")), part, str(fuser.get("fingerprint", ""))
        yield Origin(*named, told if isinstance(told, Mapping) else {})
    for model in run.models:
        part = ADAPTER if model.role == "tuned" else f"{ADAPTER} in the {model.role}"
        yield Origin(model.reference, part, model.fingerprint, model.training)


def origins_text(trained: Sequence[Origin]) -> str:
    """Lists every trained part, without what `shared_text` says of it."""
    return "\n".join(f"* {_text(one, shared)}" for part, shared in _parts(trained) for one in part)


def shared_text(trained: Sequence[Origin]) -> str:
    """Lists for each part the settings that all its weights were trained with."""
    return "\n".join(f"* {markdown(part[0].part)}: {_listed(shared) or 'none'}" for part, shared in _parts(trained))


def _parts(trained: Sequence[Origin]) -> Iterator[tuple[list[Origin], dict[str, Any]]]:
    for _, group in groupby(trained, key=attrgetter("part")):
        part = list(group)
        yield part, _shared(part)


def _shared(part: Sequence[Origin]) -> dict[str, Any]:
    first, *others = [one.training for one in part]
    return {name: value for name, value in first.items() if all(name in o and o[name] == value for o in others)}


def _listed(settings: Mapping[str, Any]) -> str:
    return markdown(", ".join(f"{name} {value}" for name, value in sorted(settings.items()) if name not in _SHOWN))


def _text(origin: Origin, shared: Mapping[str, Any]) -> str:
    told = {name: str(value) for name, value in origin.training.items()}
    own = {name: value for name, value in told.items() if name not in shared}
    figures = {
        "{} parameters": told.get("trained_parameters", ""),
        "seed {}": told.get("seed", ""),
        "steps x batch {}": " x ".join(told[name] for name in ("steps", "global_batch") if name in told),
        "learning rate {}": told.get("learning_rate", ""),
        "rows of digest {}": told.get("data_fingerprint", "")[:_DIGITS],
    }
    written = [markdown(text.format(value)) for text, value in figures.items() if value]
    digest = f"sha256 {markdown(origin.fingerprint[:_DIGITS])}"
    return ", ".join(
        [f"**{markdown(origin.reference)}** ({origin.part}): {digest}", *written, *filter(None, [_listed(own)])]
    )
