"""The date that chat templates write where they ask for today's.

Guarantees that a prompt is the same on every day: a template that reads the clock gets one fixed date, which is part of
a run's identity.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

# The date that Llama 3's template writes by itself where there is no clock.
TEMPLATE_DATE = "2024-07-26"
_CLOCK = "strftime_now"
_NOW = datetime.fromisoformat(TEMPLATE_DATE)
_FORMS = (*"aAbBcdeDFGHIjmMpRSTuUVwWxXyYzZ", "f", "-d", "-m", "-H", "-I", "-M", "-S", "-j", "%")


def reads_clock(tokenizer: Any) -> bool:
    """Whether a tokenizer's chat template may write the date."""
    return _CLOCK in str(tokenizer.chat_template)


def fixed_clock(tokenizer: Any) -> dict[str, str]:
    """Arguments of ``apply_chat_template`` that put the fixed date in place of today's; none where nobody asks."""
    return {"chat_template": _macro() + tokenizer.get_chat_template()} if reads_clock(tokenizer) else {}


def _macro() -> str:
    """Hides the clock behind a macro of its name; transformers hands no functions on to templates."""
    written = "".join(f" | replace('%{form}', '{_NOW.strftime(f'%{form}')}')" for form in _FORMS)
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{written} }}}}{{%- endmacro +%}}"
