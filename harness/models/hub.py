"""What a reference to the hub stands for: one commit, and the folder of this machine that holds its files.

Guarantees that everything of a repository is read from the folder of one commit. A pinned commit is what is read, or
the reference is refused; a branch or no revision is resolved once, and the commit that it stands for is known. Where
the hub cannot be asked, the cache serves the same commit or nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError
from harness.records.schema import is_commit

logger = logging.getLogger(__name__)


Kind = Literal["model", "dataset"]

_MAIN = "main"

# What a model, a tokenizer or an adapter consists of, weights as data; and what lies beside it and nobody reads.
MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.py", "*.safetensors")

OTHER_FILES = ("*/*", "consolidated*", "LICENSE*", "NOTICE*", "USE_POLICY*", "README*")


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit.

    Attributes:
        repo: the repository's name.
        commit: 40 hexadecimal digits.
        folder: where its files are.
    """

    repo: str
    commit: str
    folder: Path


@dataclass(frozen=True)
class Wanted:
    """Which files of a repository are read, as patterns in which `*` also stands for `/`; empty = all."""

    files: Sequence[str] = ()
    but: Sequence[str] = ()

    def arguments(self) -> dict[str, Any]:
        """As huggingface_hub takes them."""
        return {"allow_patterns": list(self.files) or None, "ignore_patterns": list(self.but) or None}


def snapshot(repo: str, revision: str | None, wanted: Wanted, kind: Kind = "model") -> Snapshot:
    """Fetches files of a repository, or finds them in the cache.

    Args:
        repo: as `org/name`.
        revision: commit, branch or tag; None = `main`.
        wanted: the files.
        kind: of the repository.

    Raises:
        UserError: the files cannot be had at this revision, or the hub answers with another commit.
    """
    asked = revision or _MAIN
    try:
        _check_served(repo, asked, kind)
        folder = _download(repo, asked, wanted, kind, cached=False)
    except UserError:
        raise
    except Exception as error:  # HTTP clients raise kinds of their own, which change with their versions
        return _from_cache(repo, asked, wanted, kind, error)
    try:
        _download(repo, folder.name, wanted, kind, cached=True)
    except Exception as error:
        raise UserError(
            f"The hub does not give all files of {repo} at commit {folder.name}, or gives some of another commit "
            f"({_reason(error)}){_others(repo, kind)}. Nothing of it is used; try again, or choose another revision."
        ) from error
    return Snapshot(repo, folder.name, folder)


class Commits:
    """The commits that one run reads: a revision that may move is resolved once, or is the one that is recorded.

    Attributes:
        known: reference as `org/name` or `org/name@branch` -> commit.
    """

    def __init__(self, recorded: Mapping[str, str] | None = None) -> None:
        self.known = dict(recorded or {})

    def snapshot(self, repo: str, revision: str | None, wanted: Wanted) -> Snapshot:
        """Fetches files of a model's, adapter's or fuser's repository, see `snapshot`."""
        if is_commit(revision):
            return snapshot(repo, revision, wanted)
        name = f"{repo}@{revision}" if revision else repo
        found = snapshot(repo, self.known.get(name, revision), wanted)
        self.known[name] = found.commit
        return found


def _from_cache(repo: str, asked: str, wanted: Wanted, kind: Kind, error: Exception) -> Snapshot:
    try:
        folder = _download(repo, asked, wanted, kind, cached=True)
    except Exception as missing:
        raise UserError(
            f"{repo} at revision {asked} cannot be fetched ({_reason(error)}) and is not in the cache as a whole"
            f"{_others(repo, kind)}. Check the name, the network and the access, or choose a cached revision."
        ) from missing
    if not is_commit(asked):
        logger.warning(
            "%s: the hub cannot be asked what %s is; the cache says %s (%s).", repo, asked, folder.name, _reason(error)
        )
    return Snapshot(repo, folder.name, folder)


def _check_served(repo: str, asked: str, kind: Kind) -> None:
    """Asks the hub which commit it has for a revision; not for a commit whose files are listed in the cache already.

    Raises:
        UserError: it has another one for a commit.
    """
    from huggingface_hub import HfApi

    if is_commit(asked) and _is_listed(repo, asked, kind):
        return
    served = HfApi().repo_info(repo, revision=asked, repo_type=kind).sha
    if is_commit(asked) and served != asked:
        raise UserError(f"{repo} is asked for at revision {asked}, but the hub answers with {served}; it is not used.")


def _is_listed(repo: str, commit: str, kind: Kind) -> bool:
    try:
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError
    except ImportError:  # older releases keep no lists
        return False
    try:
        return bool(get_cached_repo_tree(repo, repo_type=kind, revision=commit))
    except CachedRepoTreeNotFoundError:
        return False


def _download(repo: str, revision: str, wanted: Wanted, kind: Kind, *, cached: bool) -> Path:
    """Returns the folder of a commit.

    Args:
        repo: its name.
        revision: commit or branch.
        wanted: the files.
        kind: of the repository.
        cached: ask nobody; then an incomplete folder is an error, as far as the cache knows what belongs to it.
    """
    from huggingface_hub import snapshot_download

    arguments = wanted.arguments() | {"repo_type": kind, "local_files_only": cached}
    folder = Path(snapshot_download(repo, revision=revision, **arguments))
    if cached and not any(folder.rglob("*")):
        raise FileNotFoundError(f"{folder} is empty")
    return folder


def _others(repo: str, kind: Kind) -> str:
    """Which commits of a repository the cache has, in words."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"{kind}s--{repo.replace('/', '--')}" / "snapshots"
    names = sorted(path.name for path in folder.glob("*"))
    return f", which has {', '.join(names)}" if names else ""


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(".: ")
