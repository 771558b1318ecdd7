"""What differs between a baseline and a run before any answer is looked at: the first lines of a check.

Guarantees that every part of a record that can change an answer is named, and separates what can change an answer in
any way from what only changes how numbers are rounded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config import differing
from harness.records.schema import Git, RunRecord
from harness.regression.exact_check import BATCHING
from harness.regression.pairing import Run

_PACKAGE = "c2c-harness"
_PROMPTS = ("prompts", "receiver_chat_template", "sharer_chat_template", "chat")
_WEIGHTS = ("weights", "fuser_weights", "receiver", "sharers", "fusers", "tuned", "self_fuser")
_NUMERICS = ("attention", "device", "dtype", "dtypes")
_DATA = ("documents", "task_versions")  # another data set is refused, not compared
_PLACEMENT = ("device_map", "tensor_parallel")
_PLUGINS = "plugins"
_ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """One thing that two runs do not share.

    Attributes:
        what: Receiver weights, fuser, prompts, config, code commit, hardware, ...
        detail: The two values in short; empty where they would not help a reader.
        rounding: Whether it only changes how numbers are rounded.
    """

    what: str
    detail: str = ""
    rounding: bool = False

    @property
    def text(self) -> str:
        """As it is printed."""
        return f"{self.what} ({self.detail})" if self.detail else self.what


def find_differences(baseline: Run, run: Run) -> list[Difference]:
    """Names everything that differs, what can change most first."""
    old, new = baseline.record, run.record
    named = [*_models(old, new), *_fusers(old, new), *_prompts(baseline, run), *_config(old, new)]
    if not named and (not old.identity or old.identity != new.identity):
        named = [Difference("identity", f"{old.identity[:7] or 'unknown'} -> {new.identity[:7] or 'unknown'}")]
    return [*named, *_code(old, new), *_packages(old, new), *_surroundings(old, new)]


def only_rounding(found: Iterable[Difference]) -> bool:
    """Whether nothing differs but what changes how numbers are rounded."""
    return all(difference.rounding for difference in found)


def first_line(found: Sequence[Difference]) -> str:
    """All differences in one sentence."""
    return f"Differs: {'; '.join(each.text for each in found) or 'nothing that the records name'}."


def _models(old: RunRecord, new: RunRecord) -> Iterable[Difference]:
    before, after = (_by_role((m.role, m.fingerprint, m.reference) for m in record.models) for record in (old, new))
    listed = list(_weights(before, after))
    yield from listed or [Difference("weights")] * _field_differs(old, new, "weights")


def _fusers(old: RunRecord, new: RunRecord) -> Iterable[Difference]:
    before, after = (
        _by_role(("fuser", str(one.get("fingerprint", "")), str(one.get("reference", ""))) for one in record.fusers)
        for record in (old, new)
    )
    listed = [Difference("fuser", found.detail) for found in _weights(before, after)]
    yield from listed or [Difference("fuser")] * _field_differs(old, new, "fuser_weights")


def _by_role(parts: Iterable[tuple[str, str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Role -> (fingerprint, name) of everything with this role; weights that nobody saw are known by name alone."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for role, fingerprint, reference in parts:
        found[role].append((fingerprint or reference, reference))
    return found


def _weights(
    before: Mapping[str, list[tuple[str, str]]], after: Mapping[str, list[tuple[str, str]]]
) -> Iterable[Difference]:
    for role in dict.fromkeys([*before, *after]):
        sides = [side.get(role, []) for side in (before, after)]
        if [mark for mark, _ in sides[0]] != [mark for mark, _ in sides[1]]:
            yield Difference(f"{role} weights", " -> ".join(map(_named, sides)))


def _named(side: Sequence[tuple[str, str]]) -> str:
    return " and ".join(f"{reference.rpartition('/')[2]} {mark[:7]}".strip() for mark, reference in side) or "none"


def _field_differs(old: RunRecord, new: RunRecord, name: str) -> bool:
    return bool(old.identity_fields.get(name, _ABSENT) != new.identity_fields.get(name, _ABSENT))


def _prompts(baseline: Run, run: Run) -> Iterable[Difference]:
    before, after = _read(baseline), _read(run)
    tasks = [task for task in before if _other_prompts(before[task], after.get(task, {}))]
    named = _changed(baseline.record, run.record, _PROMPTS)
    if tasks or named:
        yield Difference("prompts", ", ".join(tasks[:3] or named))


def _read(run: Run) -> dict[str, dict[tuple[str, str, str], str]]:
    """Task -> question and arm -> digest of the prompt."""
    found: dict[str, dict[tuple[str, str, str], str]] = defaultdict(dict)
    for sample in run.samples:
        found[sample.task][(sample.doc_id, sample.channel, sample.control)] = sample.prompt_sha256
    return found


def _other_prompts(old: Mapping[Any, str], new: Mapping[Any, str]) -> bool:
    """Whether any prompt differs; one that a side did not keep is not compared."""
    return any(mark and new.get(key) and mark != new[key] for key, mark in old.items())


def _changed(old: RunRecord, new: RunRecord, names: Iterable[str]) -> list[str]:
    return [name for name in names if _field_differs(old, new, name)]


def _config(old: RunRecord, new: RunRecord) -> Iterable[Difference]:
    names = differing(old.identity_fields, new.identity_fields)
    others = [name for name in names if name not in {*_PROMPTS, *_WEIGHTS, *_NUMERICS, *_DATA, _PLUGINS}]
    if others:
        yield Difference("config", ", ".join(others))
    if _PLUGINS in names:
        sides = (record.identity_fields.get(_PLUGINS) or {} for record in (old, new))
        yield Difference("plug-in code", ", ".join(differing(*sides)))
    if numerics := [name for name in names if name in _NUMERICS]:
        yield Difference("number format or kernel", ", ".join(numerics), rounding=True)


def _code(old: RunRecord, new: RunRecord) -> Iterable[Difference]:
    before, after = _commit(old), _commit(new)
    if before != after or old.git.dirty or new.git.dirty:
        yield Difference("code commit", f"{before} -> {after}")


def _commit(record: RunRecord) -> str:
    git: Git = record.git
    if not git.commit:
        return f"version {record.packages.get(_PACKAGE, 'unknown')}"
    return f"{git.commit[:7]}{' with uncommitted changes' if git.dirty else ''}"


def _packages(old: RunRecord, new: RunRecord) -> Iterable[Difference]:
    names = [name for name in differing(old.packages, new.packages) if name != _PACKAGE]
    if names:
        texts = (f"{name} {old.packages.get(name, 'none')} -> {new.packages.get(name, 'none')}" for name in names)
        yield Difference("packages", ", ".join(texts))


def _surroundings(old: RunRecord, new: RunRecord) -> Iterable[Difference]:
    # Whether the hub may be asked changes nothing: what was read has fingerprints of its own.
    if names := [name for name in differing(old.environment, new.environment) if not name.endswith("_OFFLINE")]:
        yield Difference("environment", ", ".join(names), rounding=True)
    if old.config and new.config:
        names = [name for name in (*BATCHING, *_PLACEMENT) if old.config.get(name) != new.config.get(name)]
        if names:
            yield Difference("batches or placement", ", ".join(names), rounding=True)
    before, after = old.hardware, new.hardware
    if not before.fingerprint or before.fingerprint != after.fingerprint:
        yield Difference("hardware", _machines(before.cpu or "unknown", after.cpu or "unknown"), rounding=True)


def _machines(before: str, after: str) -> str:
    return "" if before == after else f"{before} -> {after}"
