"""What `ls runs` lists: the runs below a folder, what each is about and how far it came."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

from harness.errors import UserError
from harness.records.journal import RECORD, read_record

FOLDER = Path("runs")
_WIDTH = 80


def runs(folder: Path) -> list[str]:
    """Lists the runs in a folder, the newest first.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir() and folder != FOLDER:
        raise UserError(f"{folder} is no folder; runs are in {FOLDER}/ unless --output_path said otherwise.")
    found = {path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}{RECORD}")}
    if not found:
        return [f"No run in {folder}."]
    told = sorted((_told(path) for path in found), key=lambda pair: pair[0], reverse=True)
    return [line for _, lines in told for line in lines]


def _told(path: Path) -> tuple[str, list[str]]:
    """When a run started, and its lines."""
    from harness.report.state import state_of  # brings pandas, which most lists do without

    try:
        record = read_record(path)
        state = state_of(path, record)
    except UserError as error:
        return "", [str(path), fill(f"unreadable: {error}", _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    receiver = next((model.reference for model in record.models if model.role == "receiver"), "")
    tasks = ", ".join(map(str, record.config.get("tasks", [])))
    about = f"{tasks}; receiver {receiver or record.config.get('receiver')}"
    when = record.started_at[:16].replace("T", " ")
    lines = [f"{path}  {record.run_id}" if record.run_id != path.name else str(path)]
    lines += [fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ") for text in (f"{when}  {state}", about)]
    return record.started_at, lines
