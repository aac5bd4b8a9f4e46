"""The command `vitrim`. Nothing heavy is imported before a command line is understood: mistakes are answered at once.

Exit codes: 0 done, 1 `vitrim check` has found something wrong, 2 a mistake of the user's (one line on standard error),
130 interrupted (by SIGTERM 143), 141 the reader of standard output has gone. Anything else that goes wrong is our
mistake, and its traceback is shown.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module

from ..common.errors import OptionError
from ..common.files import STDOUT
from ..common.terminal import speak_as_told
from ..common.text import did_you_mean, shortened, visible
from .commands import COMMANDS, GROUPS
from .shared.early import check_early
from .shared.flags import in_flags
from .shared.help import overview
from .shared.pages import page_near, pages_of
from .shared.parse import HelpAsked, parse

BAD_INPUT, INTERRUPTED, READER_GONE = 2, 130, 141
EXPORTS = "torch._subclasses.fake_tensor"
LONGEST = 280  # characters of an error of somebody else's code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's own) and return the exit code.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        vitrim ...
        0
    """
    for stream in (sys.stdout, sys.stderr):
        speak_as_told(stream)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # ty: ignore[invalid-assignment]
            _answer(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return 0
    except ValueError as error:
        print(f"vitrim: error: {_one_line(in_flags(error))}", file=sys.stderr)
        return BAD_INPUT
    except SystemExit as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:  # a command may say how to go on
        print(f"\nvitrim: {_one_line(stop) or 'interrupted'}", file=sys.stderr)
        return getattr(stop, "code", INTERRUPTED)
    except BrokenPipeError:
        # What Python still holds for the closed pipe must go somewhere, or it complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("vitrim: error: standard output cannot be written: no space left on the device", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_INPUT


def _answer(argv: list[str]) -> None:
    try:
        _dispatch(argv)
    except HelpAsked as asked:
        print(asked)


def _dispatch(argv: list[str]) -> None:
    first = argv[0] if argv else "help"
    if first == "help" and len(argv) > 1:
        first, argv = argv[1], [argv[1], "--help", *argv[2:]]
    if first in ("-h", "--help", "help"):
        print(overview(GROUPS, shutil.get_terminal_size().columns))
    elif first in ("-V", "--version"):
        from .._version import __version__

        print(f"vitrim {__version__}")
    elif first in COMMANDS:
        _run(first, argv[1:])
    else:
        raise ValueError(_unknown(first))


def _run(name: str, arguments: list[str]) -> None:
    config = parse(COMMANDS[name], arguments, shutil.get_terminal_size().columns)
    check_early(COMMANDS[name], config)
    if COMMANDS[name].begins:
        print(COMMANDS[name].begins, file=sys.stderr, flush=True)
    from ..common.progress import hidden, progress

    output = getattr(config, "output", None)
    with hidden(output is not None and output.json == STDOUT):  # what reads that wants nothing else
        with progress("starting PyTorch"):
            command = import_module(f".{name}", __name__)
            _import_methods(config.imports)
        with _own_errors(config.imports):
            command.run(config)


@contextmanager
def _own_errors(specs: Sequence[str]) -> Generator[None]:
    """What a method of the user's own raises is theirs: one line, with its place, where ours would be a traceback."""
    if specs:
        logging.getLogger(EXPORTS).setLevel(logging.CRITICAL)  # it logs a traceback of what it raises
    try:
        yield
    except Exception as error:
        if not specs:
            raise
        from ..common.own_files import raised_at, told_with_place

        where = raised_at(error)
        if isinstance(error, OptionError) or not where:
            raise
        said = f"{error} ({where})" if isinstance(error, ValueError) else told_with_place(error)
        raise ValueError(shortened(_one_line(said), LONGEST)) from error


def _import_methods(specs: Sequence[str]) -> None:
    """Methods of the user's own."""
    for spec in specs:
        from ..methods import import_method

        import_method(spec)


def _show_warning(message, *_) -> None:
    """A warning is a line for the user; where in our code it arose tells nothing."""
    print(f"vitrim: warning: {_one_line(message)}", file=sys.stderr)


def _one_line(message: object) -> str:
    """A message without line breaks, and without characters in a file's name that would steer the terminal."""
    return visible(" ".join(str(message).split()))


def _unknown(given: str) -> str:
    pages = pages_of(given)
    if pages:
        return f"{shortened(given)!r} is no command: {' and '.join(pages)}"
    hint = did_you_mean(given, [*COMMANDS, "--help", "--version"])
    kind = "option" if given.startswith("-") else "command"
    if not hint and (page := page_near(given)):
        hint = f"did you mean {page}? "
    known = f"{hint}vitrim --help shows all" if hint else f"commands are {', '.join(COMMANDS)} (vitrim --help)"
    return f"{kind} {shortened(given)!r} is not known: {known}"
