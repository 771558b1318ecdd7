"""How a model is named: a hub id with optional ``@revision``, a folder, or a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import UserError
from harness.models.checkpoint import files_read
from harness.models.lora import base_of, is_adapter
from harness.paths import locate
from harness.records.schema import IN_MEMORY


@dataclass(frozen=True)
class Reference:
    """Where a model's files are.

    Attributes:
        text: as the user writes it.
        source: folder, or the repository on the hub as long as nothing is fetched from there.
        revision: as the user writes it.
        gguf_file: name of the file inside the folder.
        adapter: folder of what is merged into the model.
        base: reference of the model under an adapter.
        repo: repository of the hub that the folder is a snapshot of; empty for a folder of the user's.
        commit: of that repository.
        adapter_commit: of the repository that the adapter is from, where it is from the hub.
        digest: of a model that was given as an object; empty for one that is read from files.
    """

    text: str
    source: str
    revision: str | None = None
    gguf_file: str | None = None
    adapter: str | None = None
    base: str | None = None
    repo: str = ""
    commit: str = ""
    adapter_commit: str = ""
    digest: str = ""

    @property
    def local(self) -> bool:
        """Whether `source` is a folder of this machine."""
        return bool(self.source) and Path(self.source).is_dir()


def parse_reference(text: str, base: str | None = None) -> Reference:
    """Reads ``hub/id``, ``hub/id@revision``, a folder of a model or an adapter, or a ``.gguf`` file.

    Args:
        text: the reference.
        base: the model under an adapter, in place of the one that the adapter's folder names.

    Raises:
        UserError: a path that does not exist, or text that is none of the three.
    """
    refuse_in_memory("Model", text)
    path = locate(text)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"Model {text!r}: there is no such GGUF file; give the path of an existing one.")
        return Reference(text, str(path.parent), gguf_file=path.name)
    if text and path.is_dir():
        return _adapted(text, path, base) if is_adapter(path) else Reference(text, str(path))
    name, _, revision = text.partition("@")
    if text.startswith((".", "/", "~")) or name.count("/") > 1 or ".." in name or not name:
        raise UserError(f"Model {text!r}: no such folder; give a folder, a .gguf file or a hub id like 'org/name@rev'.")
    return Reference(text, name, revision or None, base=base)


def refuse_in_memory(what: str, text: str) -> None:
    """Refuses the reference of an object of another process, or of an earlier call.

    Raises:
        UserError: it is one.
    """
    if text.startswith(IN_MEMORY):
        raise UserError(
            f"{what} {text!r} was an object in memory and its weights are in no file; give the object again, to "
            "harness.evaluate in Python (with resume=True to go on with a run)."
        )


def _adapted(text: str, folder: Path, base: str | None) -> Reference:
    name = base or base_of(folder)
    try:
        found = parse_reference(name)
    except UserError as error:
        raise UserError(f"Adapter {text!r} needs its base model. {error}") from error
    if own := [path.name for path in files_read(folder)]:
        raise UserError(
            f"Folder {text!r} holds an adapter and the weights of a model, {own[0]!r}; which of them is meant is not "
            "known, so remove one."
        )
    if found.adapter:
        raise UserError(f"Adapter {text!r} stands on {name!r}, which is an adapter itself; give a model as its base.")
    return replace(found, text=text, adapter=str(folder), base=found.text)
