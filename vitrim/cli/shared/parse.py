"""A command line to a configuration. What is wrong is one line, which says what was typed and what is likely meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .config_file import from_file
from .help import help_of
from .methods_named import Named, named_methods
from .spec import Command, Option

_NUMBER = re.compile(r"-(\d|\.\d)")
HELP, HELP_ALL, CONFIG = ("-h", "--help"), "--help-all", "config"


class HelpAsked(Exception):
    """The help that the command line asks for is the message."""


def parse(command: Command, arguments: Sequence[str], columns: int = 80) -> SimpleNamespace:
    """The command's options by group, as objects of their classes; methods' own in `method.options`.

    columns: width of the help
    Raises ValueError, in one line, for what the command does not take, and HelpAsked for --help.
    """
    named = named_methods(command, arguments)
    if any(argument in (*HELP, HELP_ALL) for argument in arguments):
        raise HelpAsked(help_of(command, named, columns, whole=HELP_ALL in arguments))
    reader = _Reader(command, named)
    reader.read(arguments)
    return reader.result()


class _Reader:
    """Words to values, one option after the other."""

    def __init__(self, command: Command, named: Named):
        self.command, self.named = command, named
        self.known: dict[str, Option] = {o.name: o for o in [*command.options(), *named.options(command)]}
        self.values: dict[str, Any] = {}
        self.word: str | None = None

    def read(self, arguments: Sequence[str]) -> None:
        words = list(arguments)
        while words:
            word = words.pop(0)
            if not word.startswith("--") or word == "--":
                self._stray(word)
                continue
            name, given, value = word[2:].partition("=")
            inside = [value] if given else []
            while not given and words and not _is_option(words[0]):
                inside.append(words.pop(0))
            if "" in inside[1:]:
                raise ValueError("an argument is empty: give a value, or leave it out")
            self._take(name, inside)

    def result(self) -> SimpleNamespace:
        """All options, with the defaults of those that were not typed."""
        self._from_config()
        missing = [o for o in self.known.values() if o.required and o.name not in self.values]
        if missing:
            wanted = " and ".join(f"--{o.name}" for o in missing)
            raise ValueError(f"vitrim {self.command.name} needs {wanted}: {missing[0].help}")
        if self.command.needs_word and self.word is None:
            words = ", ".join(self.command.words())
            raise ValueError(f"vitrim {self.command.name} needs a {self.command.word}: {words}")
        groups: dict[str, dict[str, Any]] = {group: {} for group in self.command.groups}
        options: dict[str, Any] = {}
        for name, value in self.values.items():
            group, key = self.known[name].target
            (options if group == "options" else groups[group])[key] = value
        made = {group: cls(**groups[group]) for group, cls in self.command.groups.items()}
        given = {name: _plain(value) for name, value in self.values.items()}
        if self.command.dial:
            made["method"].options, made["method"].method = options, self.named.names
        words = {"word": self.word, "given": given, "command": self.command.name, "imports": self.named.imports}
        return SimpleNamespace(**made, **words)

    def _from_config(self) -> None:
        path = self.values.pop(CONFIG, None)
        for name, value in ({} if path is None else from_file(path, self.command.name)).items():
            if name not in self.values:
                self._take(name, value if isinstance(value, list) else [value], where=f"{path}: ")

    def _stray(self, word: str) -> None:
        if self.command.word and self.word is None:
            self.word = self._known_word(word)
            return
        if not word:
            raise ValueError("an argument is empty: give a value, or leave it out")
        hint = f"did you mean --method {word}? " if word in self.named.known else ""
        raise ValueError(f"{word!r} belongs to no option: {hint}{self._see()}")

    def _known_word(self, word: str) -> str:
        words = self.command.words()
        if word not in words:
            what = self.command.name.removesuffix("s") if self.command.word == "NAME" else self.command.word.lower()
            hint = _maybe(list(words), word, "did you mean {}? ")
            raise ValueError(f"{what} {word!r} is not known: {hint}choose one of {', '.join(words)}")
        return word

    def _take(self, name: str, words: list[Any], where: str = "") -> None:
        off = name.removeprefix("no-")
        if name == CONFIG:
            self.values[CONFIG] = Path(self._single(name, words))
            return
        option = self.known.get(name) or self.known.get(off)
        if option is None or (off != name and option.name == off and option.kind.type is not bool):
            raise ValueError(where + self._unknown(name, words))
        if option.kind.type is bool:
            self.values[option.name] = self._flag(option, off == name, words)
        elif option.kind.many and (words or not option.bare):
            self.values[option.name] = tuple(self._value(option, word, where) for word in self._several(name, words))
        else:
            self.values[option.name] = () if option.bare and not words else self._one(option, name, words, where)

    def _one(self, option: Option, name: str, words: list[Any], where: str) -> Any:
        return self._value(option, self._single(name, words), where)

    def _flag(self, option: Option, on: bool, words: list[Any]) -> bool:
        if len(words) == 1 and isinstance(words[0], bool):
            return words[0]
        if words:
            raise ValueError(f"--{option.name} {words[0]}: it takes no value; --no-{option.name} switches it off")
        return on

    def _several(self, name: str, words: list[Any]) -> list[Any]:
        if not words:
            raise ValueError(f"--{name}: give at least one value")
        return words

    def _single(self, name: str, words: list[Any]) -> Any:
        if not words or words[0] == "":
            raise ValueError(f"--{name} is empty: give a value, or leave it out")
        if len(words) > 1:
            raise ValueError(
                f"--{name} takes one value, and {' '.join(map(repr, map(str, words[1:])))} belongs to no option"
            )
        return words[0]

    def _value(self, option: Option, word: Any, where: str) -> Any:
        from ..commands import RENAMED_VALUES

        text = str(word)
        if text == "":
            raise ValueError(f"--{option.name} is empty: give a value, or leave it out")
        new = RENAMED_VALUES.get((option.name, text))
        if new is not None:
            raise ValueError(f"{where}--{option.name} {text} is called {new} now")
        try:
            return option.kind.read(text)
        except ValueError as error:
            near = _maybe(option.kind.choices, text, "; did you mean {}?")
            raise ValueError(f"{where}--{option.name} {text}: {error}{near}") from None

    def _unknown(self, name: str, words: list[Any]) -> str:
        from ..commands import RENAMED

        if name in RENAMED:
            return f"--{name} has another name: {RENAMED[name].format(' '.join(map(str, words)) or '...').strip()}"
        owners = [key for key, s in self.named.known.items() if name in {o.name.replace("_", "-") for o in s.options}]
        if owners and self.command.dial:
            return f"--{name} is no option of {' or '.join(self.named.names)}: it is one of {', '.join(owners)}"
        near = _maybe(self._names(), name, "did you mean --{}? ")
        return f"--{name} is no option of vitrim {self.command.name}: {near}{self._see()}"

    def _names(self) -> list[str]:
        return list(self.known)

    def _see(self) -> str:
        return f"see vitrim {self.command.name} --help"


def _is_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)


def _maybe(names: Sequence[str], word: str, text: str) -> str:
    near = difflib.get_close_matches(word.lstrip("-"), names, n=1, cutoff=0.6)
    return text.format(near[0]) if near else ""


def _plain(value: Any) -> Any:
    """As JSON and TOML have it."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
