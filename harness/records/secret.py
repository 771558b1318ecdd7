"""Access tokens never reach a file: whatever is written passes through `scrub` first.

Only values of variables that are plainly secret by name, and hub tokens by their form, are removed; a short value
stays, for it would tear holes into ordinary text.
"""

from __future__ import annotations

import os
import re

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
