"""Methods of the user's own on a command line: `--method my_file.py:Mine`."""

from __future__ import annotations

from collections.abc import Sequence

from ...methods import import_method

OPTION = "--method"


def by_name(arguments: Sequence[str]) -> list[str]:
    """The command line with names in place of files; the files have been imported, and their methods are registered.

    Raises ValueError for a file or class that is not there, or fails.

    Example:
        >>> by_name(["--method", "evit", "--keep", "0.7"])
        ['--method', 'evit', '--keep', '0.7']
    """
    named, inside = [], False
    for argument in arguments:
        option, given, value = argument.partition("=")
        inside = option == OPTION if argument.startswith("--") else inside
        spec = value if given and option == OPTION else argument if inside else ""
        if ".py:" in spec:
            name = import_method(spec).name
            argument = f"{option}={name}" if given else name
        named.append(argument)
    return named
