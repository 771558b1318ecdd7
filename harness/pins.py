"""Which references of a run are open, that is, name no commit, and which commits they stood for when it was run."""

from __future__ import annotations

from collections.abc import Iterator

from harness.hub import is_commit
from harness.records.schema import RunRecord


def recorded_commits(run: RunRecord) -> dict[str, str]:
    """Returns reference without a commit -> commit that the run read."""
    return dict(_open(run))


def open_pins(run: RunRecord) -> list[str]:
    """Names a run's references without a commit, each once, with what they stood for."""
    resolved = [f"{name} ({commit[:12]})" for name, commit in dict(_open(run)).items()]
    # A model behind an engine has no digest of ours; without a commit nobody knows which weights answered.
    served = [
        f"{m.reference} (commit unknown, behind an engine)" for m in run.models if not m.fingerprint and not m.revision
    ]
    return [*resolved, *dict.fromkeys(served)]


def _open(run: RunRecord) -> Iterator[tuple[str, str]]:
    for name, commit in _all(run):
        if is_commit(commit) and not is_commit(name.partition("@")[2]):
            yield name, commit


def _all(run: RunRecord) -> Iterator[tuple[str, str]]:
    for model in run.models:
        if model.adapter_revision:
            yield model.reference, model.adapter_revision
        yield model.base or model.reference, model.revision
    for fuser in run.fusers:
        yield str(fuser.get("reference", "")).partition(":")[0], str(fuser.get("revision", ""))
