"""Every form of fuser by name. Checkpoints, recipes and the bench name a form; names are compared nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import yaml

from harness.errors import UserError
from harness.registry import Registry, resolve

if TYPE_CHECKING:
    from harness.fusers.interface import FuserModule

C2C = "c2c"


@dataclass(frozen=True)
class FuserEntry:
    """What the harness has to know of a form of fuser.

    Attributes:
        name: in checkpoints, recipes and the bench.
        summary: one line for lists and help.
        module: ``module:class`` or the class, a `harness.fusers.interface.FuserModule`.
    """

    name: str
    summary: str
    module: str | type[FuserModule]

    def load(self) -> type[FuserModule]:
        """Returns the form's class; its module is imported now.

        Raises:
            UserError: the class calls itself otherwise.
        """
        found = cast("type[FuserModule]", resolve(self.module))
        if found.form != self.name:
            raise UserError(f"Fuser form {self.name!r} is registered for a class of form {found.form!r}; use one name.")
        return found


FUSERS: Registry[FuserEntry] = Registry(
    "fuser form",
    "c2c_harness.fusers",
    (FuserEntry(C2C, "projection, dynamic weighting and gate of the C2C paper", "harness.fusers.c2c:Fuser"),),
)


def parse_form(text: str) -> tuple[FuserEntry, dict[str, Any]]:
    """Reads ``name[:option=value]...``, the options being fields of the form's configuration.

    Raises:
        UserError: the form is unknown, or an option has no value or is given twice.
    """
    name, *parts = text.split(":")
    options: dict[str, Any] = {}
    for part in parts:
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or option in options:
            raise UserError(f"Fuser form {text!r}: write each option once, as option=value.")
        options[option] = yaml.safe_load(value)
    return FUSERS.get(name.strip()), options
