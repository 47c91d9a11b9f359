"""Errors that the user can fix."""

from __future__ import annotations

import re

# Control characters but line ends and tabs, marks that reorder what is displayed, halves of surrogate pairs.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
LINE_END = re.compile(r"\r?\n\s*")  # with the indentation of the next line


def printable(text: str) -> str:
    r"""Text from a file as a terminal may show it: control characters become escapes.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    r"""As `printable`, with line ends as escapes, too: a name with one in it stays within its line.

    >>> one_line("a\nb.txt")
    'a\\nb.txt'
    """
    return printable(text).replace("\n", "\\n")


class UserError(Exception):
    """Invalid user input: a recipe, a flag, a row, an unwritable store.

    The message names the file, key or row, what it has, what was expected and what to do; each argument is a line,
    in which the line ends of what it quotes, such as a library's error of several lines, are spaces. The command line
    exits with code 2. Ray pickles it between processes, so it carries a message and no other state.
    """

    def __str__(self) -> str:
        return "\n".join(printable(LINE_END.sub(" ", str(line).rstrip())) for line in self.args)
