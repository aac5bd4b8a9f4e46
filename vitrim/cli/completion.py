"""`vitrim completion SHELL`: a script that completes commands, options and values in bash, zsh or fish."""

from __future__ import annotations

from typing import Any

from .commands import COMMANDS
from .shared.methods_named import Named
from .shared.signatures import own_signatures
from .shared.spec import Command, Option

BASH = """_vitrim() {
  local cur=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} words=
  if [ $COMP_CWORD -eq 1 ]; then words="%(commands)s"; else
    case "${COMP_WORDS[1]} $last" in
%(values)s
    *) case ${COMP_WORDS[1]} in
%(options)s
      esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [ ${#COMPREPLY[@]} -eq 0 ]; then COMPREPLY=($(compgen -f -- "$cur")); fi
}
complete -o filenames -F _vitrim vitrim
"""
ZSH = "autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit\n" + BASH


def run(config: Any) -> None:
    """Print the script."""
    print(fish() if config.word == "fish" else _of_words(ZSH if config.word == "zsh" else BASH), end="")


def _options(command: Command) -> list[Option]:
    return [*command.options(), *Named((), (), dict(own_signatures())).options(command)]


def _values(command: Command) -> dict[str, tuple[str, ...]]:
    """Options with the values that they may have."""
    found = {o.name: o.kind.choices for o in _options(command) if o.kind.choices}
    return {**found, **({"method": tuple(own_signatures())} if command.dial else {})}


def _of_words(script: str) -> str:
    values, options = [], []
    for name, command in COMMANDS.items():
        values += [f'    "{name} --{o}") words="{" ".join(found)}" ;;' for o, found in _values(command).items()]
        words = [*command.words(), *(f"--{o.name}" for o in _options(command))]
        options.append(f'      {name}) words="{" ".join(words)}" ;;')
    parts = {"commands": " ".join(COMMANDS), "values": "\n".join(values), "options": "\n".join(options)}
    return script % parts


def fish() -> str:
    """The script for fish, whose completions are one line each."""
    lines = [f"complete -c vitrim -f -n __fish_use_subcommand -a '{' '.join(COMMANDS)}'"]
    for name, command in COMMANDS.items():
        here = f"complete -c vitrim -n '__fish_seen_subcommand_from {name}'"
        values = _values(command)
        if command.words():
            lines.append(f"{here} -f -a '{' '.join(command.words())}'")
        for option in _options(command):
            given = f" -x -a '{' '.join(values[option.name])}'" if option.name in values else ""
            lines.append(f"{here} -l {option.name} -d '{_quoted(option.help)}'{given}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "").replace("'", "")[:80]
