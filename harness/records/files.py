"""Files written whole or not at all, with safe names and without access tokens.

Guarantees that a reader never sees half a file written by `write_atomic`, even when the power fails, and that a refused
or failing file system ends in one sentence. The price is two fsyncs a file; journals, which are written often, pay one
a batch (see `harness.records.journal`). File names are made safe for ids and task names from outside.

Whatever is written passes through `scrub` first, so access tokens never reach a file. Only values of variables that are
plainly secret by name, and hub tokens by their form, are removed; a short value stays, because removing it would tear
holes into ordinary text.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import RunError, UserError

_NAMES = re.compile(r"(TOKEN|API_?KEY|ACCESS_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_ID)?$", re.IGNORECASE)

_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")

_MIN_CHARS = 12

REMOVED = "[removed]"


def is_secret(name: str) -> bool:
    """Says whether an environment variable of this name holds an access token or password."""
    return _NAMES.search(name) is not None


def scrub(text: str) -> str:
    """Returns `text` without the access tokens that this process knows of."""
    for name, value in os.environ.items():
        if len(value) >= _MIN_CHARS and is_secret(name):
            text = text.replace(value, REMOVED)
    return _HUB_TOKEN.sub(REMOVED, text)


_LONGEST = 120


def file_name(text: str, reserved: Collection[str] = ()) -> str:
    """Returns a file name, without a suffix, that no other text has, also where a file system ignores case.

    Text of lower-case letters, digits, `_`, `.` and `-` names itself. Anything else is written in these characters,
    then `~` and a digest of the text.

    Args:
        text: what the file is about.
        reserved: lower-case names that stand for something else in that folder.
    """
    written = re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip(".-")[:_LONGEST]
    if written == text and text not in reserved:
        return text
    return f"{written}~{hashlib.sha256(text.encode()).hexdigest()[:12]}"


_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}

_NO_SUCH_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_BLOCK_BYTES = 1 << 20

# Beside trained weights: what the training cost.
COST_FILE = "training_cost.json"


def explain_os_error(path: Path, error: OSError) -> UserError | RunError:
    """Turns what the file system said about `path` into the sentence that the user reads."""
    reason = error.strerror or str(error)
    if error.errno in _REFUSED | _NO_SUCH_PATH:
        return UserError(f"Cannot use {path}: {reason}; choose a path that can be read and written.")
    todo = "free some space and resume the run" if error.errno in _FULL else "check the disk and resume the run"
    return RunError(f"Writing {path} failed: {reason}; what was written before is intact, {todo}.")


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Raises `explain(path, error)` for every OSError inside.

    Raises:
        UserError: where the path cannot be used at all (read-only, missing, not a folder).
        RunError: where the disk is full or failing.
    """
    try:
        yield
    except OSError as error:
        raise explain_os_error(path, error) from error


def write_fully(fd: int, data: bytes) -> None:
    """Writes all of `data`; one system call may take only a part of it when the disk is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(folder: Path) -> None:
    """Makes names that were created or renamed in `folder` survive a power failure."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replaces `path` by `content` in one step, or leaves it as it was.

    Raises:
        UserError: if the folder cannot be written.
        RunError: if the disk is full or failing.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with explaining(path):
        try:
            _write_new(temporary, data)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _write_new(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_fully(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


_digests: dict[tuple[int, ...], str] = {}


def sha256_file(path: Path) -> str:
    """Returns the digest of one file's contents; read once a process while it stays the same file, unchanged."""
    with explaining(path):
        stat = path.stat()
        # A copied file may bring its time along; the time at which its entry last changed is the system's own.
        key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if key not in _digests:
            _digests[key] = _digest(path)
    return _digests[key]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_files(paths: Iterable[Path]) -> str:
    """Returns one digest over names, sizes and contents; the order of `paths` and their folder do not matter.

    What a training cost does not count: equal weights have equal digests, however long they took.
    """
    entries = sorted((path.name, sha256_file(path), path) for path in paths if path.name != COST_FILE)
    digest = hashlib.sha256()
    for name, content, path in entries:
        digest.update(f"{name}\0{path.stat().st_size}\0{content}\n".encode())
    return digest.hexdigest()
