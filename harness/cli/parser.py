"""How commands read their words: two spellings accepted and one shown, help of a screen, errors in a sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from harness.cli.foreign_words import answer
from harness.errors import UserError, suggest
from harness.paths import program

WIDTH = 79
_COLUMN = 24
_SPELLED = {"-h": "-h, --help"}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with a near flag; hyphens and underscores are one."""

    def __init__(self, command: str = "", description: str = "") -> None:
        """A parser of a command; without a name one that reads a few flags among others."""
        super().__init__(
            prog=f"{program()} {command}".strip(),
            description=description,
            allow_abbrev=False,
            add_help=False,
            formatter_class=_Formatter,
        )
        self._command = command
        if command:
            self.add_argument("-h", "--help", nargs="?", action=_Help, help="show this; `--help all` shows every flag")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Reads words as argparse does, under the spelling that the flags were declared with."""
        given = list(sys.argv[1:] if args is None else args)
        known = {_joined(spelled): spelled for spelled in self._option_string_actions}
        words = [_canonical(word, known) for word in given]
        if sentence := answer(self._command, words, self._option_string_actions):
            raise UserError(sentence)
        self._refuse_split_lists(words)
        return super().parse_known_args(words, namespace)

    def _refuse_split_lists(self, words: Sequence[str]) -> None:
        """Refuses ``--tasks a b``, whose second word would be taken for the file of a suite."""
        for place, word in enumerate(words):
            flag, equals, value = word.partition("=")
            if not getattr(self._option_string_actions.get(flag), "listed", False):
                continue
            value, *rest = [value] * bool(equals) + list(words[place + 1 :]) or [""]
            parts = [value, *takewhile(_bare, rest)]
            if len(parts) > 1:
                raise UserError(f"{flag} {' '.join(parts)}: write several with commas, {flag} {','.join(parts)}.")

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print.

        Raises:
            UserError: always.
        """
        if message.startswith("unrecognized arguments:"):
            seen = message.partition(":")[2].split()[0]
            flags = [f for action in self._actions for f in action.option_strings]
            message = f"unknown argument {seen!r}.{suggest(seen, flags)}"
        end = "" if message.endswith("?") else "."
        raise UserError(f"{message.rstrip('.')}{end} See {self.prog} --help.")

    def help_text(self, everything: bool) -> str:
        """The help, with the flags that matter or with all of them."""
        hidden = [action for action in self._actions if getattr(action, "rare", False)]
        if everything or not hidden:
            return self.format_help()
        kept = [(action, action.help) for action in self._actions]
        try:
            for action, text in kept:
                action.help = argparse.SUPPRESS if action in hidden else _brief(text or "")
            return f"{self.format_help()}\n{len(hidden)} more flags: {self.prog} --help all\n"
        finally:
            for action, text in kept:
                action.help = text

    def format_usage(self) -> str:
        """The line of usage; of many flags none is named there."""
        self._shorten_usage()
        return super().format_usage()

    def format_help(self) -> str:
        """The whole help."""
        self._shorten_usage()
        return super().format_help()

    def _shorten_usage(self) -> None:
        if self.usage is None and len(self._actions) > len(self._get_positional_actions()) + 12:
            names = (f"[{action.metavar or action.dest}]" for action in self._get_positional_actions())
            self.usage = " ".join([self.prog, *names, "[flags]"])


class _Help(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, default=argparse.SUPPRESS, metavar="all", **more)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values not in (None, "all"):
            raise UserError(f"{option_string} {values}: write --help, or --help all.")
        print(parser.help_text(values == "all").rstrip())
        parser.exit()


class _Formatter(argparse.HelpFormatter):
    """Shows one spelling a flag."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_COLUMN, width=WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        first = action.option_strings[0]
        shown = getattr(action, "shown", _SPELLED.get(first, first))
        if action.nargs == 0:
            return str(shown)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{shown} {value}"


def _brief(text: str) -> str:
    """The first clause of a help text on one line, with the default where it fits."""
    words, bracket, default = text.partition(" (default: ")
    clause = words.partition(";")[0].rstrip(".")
    whole = (text, f"{clause}{bracket}{default}")
    return next((one for one in whole if len(one) <= WIDTH - _COLUMN), clause)


def _bare(word: str) -> bool:
    """Whether a word is neither a flag nor a file, as a suite is."""
    return not word.startswith("-") and not word.endswith((".yaml", ".yml")) and not Path(word).exists()


def _joined(word: str) -> str:
    return word.replace("-", "_")


def _canonical(word: str, known: dict[str, str]) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return f"{known.get(_joined(name), name)}{equals}{value}"


def declared(words: Iterable[str], name: str) -> bool:
    """Whether a flag is among the words, under either spelling."""
    return any(_joined(word.partition("=")[0]) == _joined(name) for word in words)
