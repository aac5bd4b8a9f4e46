"""What is said of an option that a command does not take: what it is called now, whose it is, or what is meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...common.text import listed, nearest
from .methods_named import Named
from .numbers_typed import EXAMPLES
from .renamed import RENAMED
from .spec import Command

ELSEWHERE = {
    "data": ("evaluate", "compare", "predict", "embed", "finetune", "demo", "export", "benchmark", "check"),
    "out": ("compare", "predict", "embed", "export", "finetune", "demo", "benchmark", "visualize"),
}


def unknown_option(command: Command, named: Named, known: Iterable[str], name: str, words: Sequence[Any]) -> str:
    """The message. known: the names of all options that it takes; words: what was typed behind it"""
    typed = " ".join([f"--{name}", *map(str, words)])
    if name in RENAMED:
        return f"--{name} has another name now: give {RENAMED[name].format(' '.join(map(str, words)) or '...')}"
    owners = [key for key, s in named.known.items() if name in {o.name.replace("_", "-") for o in s.options}]
    if owners and command.dial:
        names = " or ".join(named.names)
        if any(named.known[owner].dial == name for owner in owners):
            return f"{typed} is no option of {names}: {_dials(named)}"
        return f"--{name} is no option of {names}: it is one of {', '.join(owners)}"
    if name in ELSEWHERE and command.name not in ELSEWHERE[name]:
        return f"--{name} is no option of vitrim {command.name}: {listed(ELSEWHERE[name])} take it"
    near = "".join(f"did you mean --{other}? " for other in nearest(name.lstrip("-"), known))
    return f"--{name} is no option of vitrim {command.name}: {near}see vitrim {command.name} --help"


def _dials(named: Named) -> str:
    """What to give to the methods named in the place of another's dial."""
    dials = " and ".join(dict.fromkeys(f"--{signature.dial}" for signature in named.signatures))
    share = f"--macs, a share of the dense cost such as {EXAMPLES['macs']}"
    return f"give {share}" if dials == "--macs" else f"give {dials}, or for all methods {share}"  # the first is auto's
