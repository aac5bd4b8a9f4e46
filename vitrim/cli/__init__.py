"""The command `vitrim`. Nothing heavy is imported here: `vitrim --help` answers at once.

Exit codes: 0 done, 2 a mistake of the user's (one line on standard error), 130 interrupted, 141 the reader of standard
output has gone. Anything else that goes wrong is our mistake, and its traceback is shown.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from ..common.terminal import speak_as_told
from ..common.text import visible

# Name -> one line. Each is a module here with `run(arguments, prog)`.
COMMANDS = {
    "profile": "what a model costs with a method, block by block; needs neither weights nor images",
    "evaluate": "one method beside the dense model: accuracy, agreement, cost and speed",
    "compare": "methods at several keep rates or budgets beside the dense model: one table and one picture",
    "finetune": "train a reduced model, with labels or without, until it is better than any training-free one",
    "methods": "which methods there are, their options, and which models each runs on",
    "demo": "a comparison on handwritten digits, without network or data, as a table and a page",
}
USAGE = "vitrim COMMAND [OPTIONS]"
BAD_INPUT, INTERRUPTED, READER_GONE = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's own) and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        speak_as_told(stream)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # ty: ignore[invalid-assignment]
            code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except ValueError as error:
        print(f"vitrim: error: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except SystemExit as stop:  # tyro leaves so after it has printed a command's --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("\nvitrim: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # What Python still holds for the closed pipe must go somewhere, or it complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
    elif argv[0] in ("-V", "--version"):
        from .._version import __version__

        print(f"vitrim {__version__}")
    elif argv[0] in COMMANDS:
        _run(argv[0], argv[1:])
    else:
        raise ValueError(_unknown(argv[0]))
    return 0


def _run(command: str, arguments: list[str]) -> None:
    if any(".py:" in argument for argument in arguments):  # a method of the user's own, whose options become options
        from .shared.own_methods import by_name

        arguments = by_name(arguments)
        sys.modules.pop(f"{__name__}.{command}", None)  # its options are those of the methods known when it is imported
    import_module(f".{command}", __name__).run(arguments, f"vitrim {command}")


def _show_warning(message, *_) -> None:
    """A warning is a line for the user; where in our code it arose tells nothing."""
    print(f"vitrim: warning: {_one_line(message)}", file=sys.stderr)


def _one_line(message: object) -> str:
    """A message without line breaks, and without characters in a file's name that would steer the terminal."""
    return visible(" ".join(str(message).split()))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    about = "Vision Transformers made fast by spending compute only on the tokens that matter."
    return "\n".join([f"usage: {USAGE}", "", about, "", *lines, "", "vitrim COMMAND --help lists a command's options."])


def _unknown(given: str) -> str:
    near = difflib.get_close_matches(given, COMMANDS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    kind = "option" if given.startswith("-") else "command"
    return f"{kind} {given!r} is not known: {hint}commands are {', '.join(COMMANDS)} (vitrim --help)"
