"""`vitrim completion SHELL`: a script that completes commands, options and values in bash, zsh or fish."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .commands import COMMANDS
from .shared.methods_named import Named
from .shared.parse import CONFIG, HELP, HELP_ALL
from .shared.signatures import AUTO, own_signatures
from .shared.spec import Command, Option

# What stands last on the line belongs to the last word with two dashes before it. In bash "=" is a word of its own.
WORDS = """if [ -n "${ZSH_VERSION-}" ]; then
  autoload -U +X compinit && compinit -u
  autoload -U +X bashcompinit && bashcompinit
fi
_vitrim() {
  local cur=${COMP_WORDS[COMP_CWORD]} command= option= given=0 i=$((COMP_CWORD - 1))
  local takes= values= files= words= options= paths=
  if [ $i -gt 0 ]; then command=${COMP_WORDS[1]}; fi
  while [ $i -gt 1 ] && [[ ${COMP_WORDS[i]} != --* ]]; do i=$((i - 1)); given=$((given + 1)); done
  if [ $i -gt 1 ]; then option=${COMP_WORDS[i]}; fi
  case $command in
%(commands)s
  esac
  if [ -n "$option" ] && [ "${COMP_WORDS[i+1]}" = "=" ]; then given=$((given - 1)); takes=${takes:+one}; fi
  if [ "$cur" = "=" ]; then cur=; given=0; fi
  if [ $COMP_CWORD -gt 2 ]; then words=; fi
  if [[ $cur == -* ]]; then values=$options; files=
  elif [ -z "$takes" ] || { [ $takes = one ] && [ $given -gt 0 ]; }; then
    values=${words:-$options} files=$paths
    if [ -n "$paths" ]; then values=; fi
  fi
  COMPREPLY=($(compgen -W "$values" -- "$cur"))
  if [ -n "$files" ] && [ ${#COMPREPLY[@]} -eq 0 ]; then
    local IFS=$'\\n'
    compopt -o filenames 2> /dev/null
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}
complete -F _vitrim vitrim
# zsh and old versions of bash have no compopt: there all that is offered counts as names of files
type compopt > /dev/null 2>&1 || complete -o filenames -F _vitrim vitrim
"""
FISH = """function __vitrim_behind
    set -l words (commandline -opc)
    for word in $words[-1..1]
        string match -q -- '--*' $word; or continue
        contains -- $word $argv
        return
    end
    return 1
end
complete -c vitrim -f
"""
FIRST = "test (count (commandline -opc)) -eq"
DEVICES = ("cpu", "cuda", "mps")
PATHS = ("method", "bank", "baseline")  # text that may be a path: my_file.py:Class, a folder, a file of weights


@dataclass(frozen=True)
class Switch:
    """What begins with two dashes.

    takes:  "" for a flag; "one" value; or "many", each of them one of `values`
    values: that are offered
    files:  whether files are offered, where no value fits
    """

    name: str
    help: str
    takes: str = ""
    values: tuple[str, ...] = ()
    files: bool = False


ALWAYS = (
    Switch(HELP[1].removeprefix("--"), "the command in short"),
    Switch(HELP_ALL.removeprefix("--"), "all options of the command"),
    Switch(CONFIG, "options from a file", "one", files=True),
)


def run(config: Any) -> None:
    """Print the script."""
    print(fish() if config.word == "fish" else of_words(), end="")


def _switches(command: Command) -> Iterator[Switch]:
    """All that the command takes, whatever its method."""
    for option in (*command.options(), *Named((), {}, dict(own_signatures())).options(command)):
        yield _switch(option)
        if option.kind.type is bool and option.target[0] == "options":  # most of these are on by default
            yield Switch(f"no-{option.name}", f"switch off --{option.name}")
    yield from ALWAYS


def _switch(option: Option) -> Switch:
    if option.kind.type is bool:
        return Switch(option.name, option.help)
    values = _values(option)
    files = option.kind.type is Path or option.metavar in ("PATH", "FILE") or option.name in PATHS
    return Switch(option.name, option.help, "many" if option.kind.many and values else "one", values, files)


def _values(option: Option) -> tuple[str, ...]:
    """The values that an option may have, where they are known; of methods' options those that the help quotes."""
    if option.target == ("method", "method"):
        return (*own_signatures(), AUTO.name)
    if option.name == "device":
        return tuple(name for name in DEVICES if name in option.help)
    if option.target[0] == "options" and option.kind.type is str:
        return tuple(dict.fromkeys(re.findall(r'"(\w[\w+]*)"', option.help)))
    return option.kind.choices


def of_words() -> str:
    """The script for bash, and for zsh, which takes it too."""
    lines = [f'    "") words="{" ".join((*COMMANDS, "help"))}" options="--help --version" ;;']
    lines += [f'    help) words="{" ".join(COMMANDS)}" ;;']
    for name, command in COMMANDS.items():
        switches = list(_switches(command))
        options = " ".join(f"--{switch.name}" for switch in switches)
        paths = "yes" if command.takes else ""
        lines += [f'    {name}) words="{" ".join(command.words())}" options="{options}" paths={paths}']
        lines += ["      case $option in"]
        lines += [*_cases(switches), "      esac ;;"]
    return WORDS % {"commands": "\n".join(lines)}


def _cases(switches: Iterable[Switch]) -> list[str]:
    """A line for all options that take the same."""
    alike: dict[str, list[str]] = {}
    for switch in switches:
        if switch.takes:
            what = f'takes={switch.takes} values="{" ".join(switch.values)}" files={"yes" * switch.files}'
            alike.setdefault(what, []).append(f"--{switch.name}")
    return [f"        {'|'.join(names)}) {what} ;;" for what, names in alike.items()]


def fish() -> str:
    """The script for fish, whose completions are one line each."""
    lines = [f"complete -c vitrim -n __fish_use_subcommand -a '{' '.join((*COMMANDS, 'help'))}'"]
    lines += [f"complete -c vitrim -n __fish_use_subcommand -l {name}" for name in ("help", "version")]
    lines += [_second("help", COMMANDS)]
    for name, command in COMMANDS.items():
        lines += [_second(name, command.words())] if command.words() else []
        lines += [f"complete -c vitrim -n '__fish_seen_subcommand_from {name}' -F"] if command.takes else []
        lines += [line for switch in _switches(command) for line in _fish_lines(name, switch)]
    return FISH + "\n".join(lines) + "\n"


def _second(command: str, words: Iterable[str]) -> str:
    """The words that may follow a command at once."""
    return f"complete -c vitrim -n '__fish_seen_subcommand_from {command}; and {FIRST} 2' -a '{' '.join(words)}'"


def _fish_lines(command: str, switch: Switch) -> Iterator[str]:
    here, values = f"__fish_seen_subcommand_from {command}", f" -a '{' '.join(switch.values)}'" * bool(switch.values)
    takes = "" if not switch.takes else " -r -F" if switch.files and not values else " -x"
    yield f"complete -c vitrim -n '{here}' -l {switch.name} -d '{_quoted(switch.help)}'{takes}{values}"
    if switch.takes == "many":
        yield f"complete -c vitrim -n '{here}; and __vitrim_behind --{switch.name}'{values}"


def _quoted(text: str) -> str:
    return text[:80].replace("\\", "\\\\").replace("'", "\\'")
