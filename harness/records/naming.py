"""File names for ids and task names that come from outside."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

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
