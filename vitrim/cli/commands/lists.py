"""What the commands take that list what there is, and `vitrim completion`."""

from __future__ import annotations

from dataclasses import dataclass

from ..shared.options import OutputOptions
from ..shared.signatures import own_signatures
from ..shared.spec import Command, option
from .finetune import RECIPES as RECIPE_NAMES


@dataclass(kw_only=True)
class ListOptions:
    """What to show"""

    method: tuple[str, ...] = option("methods of your own to show too: my_file.py:Class", ())


METHODS = Command(
    "methods",
    "list the methods and what each runs on; with a NAME, all about one",
    "A NAME may be my_file.py:Class, a method of your own.",
    ("vitrim methods", "vitrim methods evit", "vitrim methods my_file.py:Class"),
    {"more": ListOptions, "output": OutputOptions},
    word="NAME",
    words=own_signatures,
)
RECIPES = Command(
    "recipes",
    "list the training recipes; with a NAME, its numbers",
    "",
    ("vitrim recipes", "vitrim recipes distill"),
    {"output": OutputOptions},
    word="NAME",
    words=lambda: RECIPE_NAMES,
)
COMPLETION = Command(
    "completion",
    "print a script that completes commands and options in a shell",
    'For bash and zsh, in ~/.bashrc or ~/.zshrc: eval "$(vitrim completion bash)". For fish, in config.fish: '
    "vitrim completion fish | source.",
    ('eval "$(vitrim completion bash)"', "vitrim completion fish | source"),
    word="SHELL",
    words=lambda: ("bash", "zsh", "fish"),
    needs_word=True,
)
