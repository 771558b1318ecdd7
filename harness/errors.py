"""The two ways a run may end badly, each a single sentence for the person at the terminal.

Guarantees that bad input never shows a traceback: the command line prints the sentence and exits
with the code of the class. Anything else that is raised is a defect of the harness itself.
"""

from __future__ import annotations

import difflib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """The input is wrong: says what was seen, what is allowed and what to do.

    Attributes:
        silent: another process of the run says it already.
    """

    exit_code = 2
    silent = False


EXTRAS = {
    "run": ("accelerate", "datasets", "gguf", "lm_eval", "safetensors", "torch", "transformers"),
    "train": ("peft", "tensorboard"),
    "serve": ("aiohttp", "requests", "tenacity"),
}
"""Optional parts of the installation -> the packages that they bring, by the name under which each is imported."""


class RunError(Exception):
    """The input was fine but the run could not be finished.

    Attributes:
        silent: another process of the run says it already.
    """

    exit_code = 1
    silent = False


def ended(command: Callable[[], int]) -> int:
    """Runs a command; one that ends badly says its sentence on standard error and gives its exit code."""
    try:
        code = command()
        if sys.stdout is not None:  # as it is where it was closed from the start
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _unread():
            raise
        # Who reads what is printed, such as `head`, has seen enough; nor may the interpreter flush the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, RunError) as error:
        if not error.silent:
            print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"Error: {lacking('this command', error)}", file=sys.stderr)
        return UserError.exit_code


def _unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more, and not some other pipe that broke."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError):
        return False
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def lacking(what: str, error: ModuleNotFoundError) -> UserError:
    """Says which optional part of the installation something needs.

    Raises:
        ModuleNotFoundError: none brings the module, so that its absence is a defect.
    """
    extra = extra_of(error.name or "")
    if extra is None:
        raise error
    return UserError(f"{what} needs {error.name}, which is not installed; pip install 'c2c-harness[{extra}]'.")


def extra_of(module: str) -> str | None:
    """Returns the optional part of the installation that brings a module; None if none does."""
    package = module.partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)


def suggest(seen: str, allowed: Iterable[str]) -> str:
    """Returns ``" Did you mean 'x'?"`` for the nearest allowed name, or an empty string where none is near."""
    found = difflib.get_close_matches(seen, list(allowed), n=3, cutoff=0.6)
    near = [name for name in found if name.startswith(seen) or 2 * _edits(seen, name) <= max(len(seen), 2)]
    return f" Did you mean {near[0]!r}?" if near else ""


def _edits(one: str, other: str) -> int:
    """Letters that differ: long names share many by chance, so a share of equal ones says little."""
    changes = difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in changes if kind != "equal")


_MOST_NAMES = 12
_SOME_NAMES = 5


def unknown(what: str, seen: str, allowed: Iterable[str], listed_by: str = "") -> UserError:
    """Builds the error for a name that is not in a closed set: the nearest one first, and of many names a few.

    Args:
        what: the kind of name.
        seen: the name.
        allowed: every name; of many, where none is near, the first few are said.
        listed_by: command that lists them all.
    """
    names = list(dict.fromkeys(allowed))
    near, wanted = suggest(seen, names), f"Allowed: {', '.join(sorted(names))}."
    if len(names) > _MOST_NAMES:
        some = difflib.get_close_matches(seen, names, n=_SOME_NAMES, cutoff=0) if near else names[:_SOME_NAMES]
        wanted = f"Allowed: {', '.join(some)} and more{f', see `{listed_by}`' if listed_by else ''}."
    return UserError(f"Unknown {what} {seen!r}.{near} {wanted}")
