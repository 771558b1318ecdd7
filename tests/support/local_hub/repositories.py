"""What a hub holds: a folder `models/ORG/NAME/COMMIT` or `datasets/ORG/NAME/COMMIT` for each commit, and `main`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

Splits = Mapping[str, Sequence[Mapping[str, Any]]]


class UnknownRevision(Exception):
    """The repository has no such branch or commit."""


class Repositories:
    """Repositories below a folder; what is written there is served at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, kind: str, name: str, commit: str, source: Path, inside: str = ".") -> Path:
        """Adds a commit, to which `main` then points.

        Args:
            kind: `models` or `datasets`.
            name: as `org/name`.
            commit: 40 hexadecimal digits.
            source: folder to copy.
            inside: where in the repository its files lie.

        Returns:
            The folder of the commit.
        """
        folder = self.root / kind / name / commit
        shutil.copytree(source, folder / inside, dirs_exist_ok=True)
        (folder / "LICENSE.txt").write_text("For tests.\n")
        self.point(kind, name, commit)
        return folder

    def add_rows(self, name: str, commit: str, configs: Mapping[str, Splits]) -> Path:
        """Adds a commit of a data set as parquet with a card, to which `main` then points."""
        folder = self.root / "datasets" / name / commit
        entries = []
        for config, splits in configs.items():
            (folder / config).mkdir(parents=True, exist_ok=True)
            for split, rows in splits.items():
                table = pyarrow.Table.from_pylist([dict(row) for row in rows])
                pyarrow.parquet.write_table(table, folder / config / f"{split}-00000-of-00001.parquet")
            files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
            entries.append({"config_name": config, "data_files": files})
        (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(entries)}\n---\nRows for tests.\n")
        self.point("datasets", name, commit)
        return folder

    def point(self, kind: str, name: str, commit: str) -> None:
        """Moves `main` of a repository."""
        (self.root / kind / name / "main").write_text(commit)

    def commit(self, kind: str, name: str, revision: str) -> str:
        """The commit that a revision stands for.

        Raises:
            UnknownRevision: there is none.
        """
        base = self.root / kind / name
        commit = (base / "main").read_text() if revision == "main" and base.is_dir() else revision
        if not (base / commit).is_dir():
            raise UnknownRevision(revision)
        return commit

    def files(self, kind: str, name: str, commit: str) -> dict[str, Path]:
        """Path in the repository -> file."""
        folder = self.root / kind / name / commit
        return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}

    def entries(self, kind: str, name: str, commit: str) -> dict[str, dict[str, Any]]:
        """Path in the repository -> file or folder, as the hub lists it."""
        folder = self.root / kind / name / commit
        return {p.relative_to(folder).as_posix(): _entry(p, folder) for p in sorted(folder.rglob("*"))}


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": git_id(name.encode()), "size": 0}
    data = path.read_bytes()
    return {"type": "file", "path": name, "oid": git_id(data), "size": len(data)}


def git_id(data: bytes) -> str:
    """Git's id of a file's bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
