"""A command line to a configuration. What is wrong is one line, which says what was typed and what is likely meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...common.text import nearest, shortened
from .config_file import config_path, from_file
from .help import help_of
from .methods_named import Named, named_methods, takes_methods
from .numbers_typed import such_as
from .renamed import RENAMED_VALUES
from .signatures import own_signatures
from .spec import Command, Option
from .unknown_option import unknown_option

_NUMBER = re.compile(r"-(\d|\.\d)")
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
HELP, HELP_ALL, CONFIG = ("-h", "--help"), "--help-all", "config"


class HelpAsked(Exception):
    """The help that the command line asks for is the message."""


def parse(command: Command, arguments: Sequence[str], columns: int = 80) -> SimpleNamespace:
    """The command's options by group, as objects of their classes; methods' own in `method.options`.

    columns: width of the help
    Raises ValueError, in one line, for what the command does not take, and HelpAsked for --help.
    """
    path = config_path(arguments)
    asks = any(argument in (*HELP, HELP_ALL) for argument in arguments)
    config = {} if path is None or asks else from_file(path, command.name)
    named = named_methods(command, _helped(command, arguments) if asks else arguments, _in_file(config))
    if asks:
        raise HelpAsked(help_of(command, named, columns, whole=HELP_ALL in arguments))
    reader = _Reader(command, named)
    reader.read(arguments)
    reader.fill(config, f"{path}: ")
    return reader.result()


def _helped(command: Command, arguments: Sequence[str]) -> list[str]:
    """The arguments of one who asks for help, `--method` before the words behind --help: `vitrim compare --help evit`.

    What a command takes without an option may stand there too, and is no method.
    """
    asked = next(i for i, argument in enumerate(arguments) if argument in (*HELP, HELP_ALL)) + 1
    words = list(takewhile(lambda word: not word.startswith("-"), arguments[asked:]))
    if not command.dial or not words or (command.takes and not set(words) <= own_signatures().keys()):
        return list(arguments)
    return [*arguments[:asked], "--method", *arguments[asked:]]


def _in_file(config: dict[str, Any]) -> list[str]:
    methods = config.get("method", [])
    return [str(word) for word in (methods if isinstance(methods, list) else [methods])]


class _Reader:
    """Words to values, one option after the other."""

    def __init__(self, command: Command, named: Named):
        self.command, self.named = command, named
        self.known: dict[str, Option] = {o.name: o for o in [*command.options(), *named.options(command)]}
        self.values: dict[str, Any] = {}
        self.word: str | None = None
        self.taken: set[bool] = set()  # how what `takes` names was given: as words alone, behind its option

    def read(self, arguments: Sequence[str]) -> None:
        words = list(arguments)
        while words:
            word = words.pop(0)
            if not word.startswith("--") or word == "--":
                self._stray(word)
                continue
            name, given, value = word[2:].partition("=")
            inside = [value] if given else []
            while not given and words and not _is_option(words[0]) and self._has_room(name, inside):
                inside.append(words.pop(0))
            if "" in inside[1:]:
                raise ValueError("an argument is empty: give a value, or leave it out")
            self._once(name)
            if name == self.command.takes:
                self._taken(False, inside)
            self._take(name, inside)

    def _has_room(self, name: str, inside: Sequence[str]) -> bool:
        """Whether the next word is this option's; always, where a word without an option would be a mistake."""
        option = self.known.get(name)
        if not self.command.takes or option is None or option.kind.many:
            return True
        return option.kind.type is not bool and not inside

    def _once(self, name: str) -> None:
        """Of an option for one value the last one counts, as everywhere; of several, which are meant is not clear."""
        option = self.known.get(name)
        if (
            name in self.values
            and option is not None
            and option.kind.many
            and (option.target[0] in ("method", "options") or name == "model")
            and not self._adds(name)
        ):
            raise ValueError(f"--{name} is given twice: give it once, with all of its values")

    def _adds(self, name: str) -> bool:
        """Whether an option that is given again adds to its values: where words without an option do so too."""
        return bool(self.command.takes) and name in ("method", self.command.takes)

    def result(self) -> SimpleNamespace:
        """All options, with the defaults of those that were not typed."""
        self.values.pop(CONFIG, None)
        missing = [o for o in self.known.values() if o.required and o.name not in self.values]
        if self.command.enough in self.values:
            self.values |= {o.name: None for o in missing}
        elif missing:
            takes = self.command.takes
            wanted = " and ".join(takes.upper() if o.name == takes else f"--{o.name}" for o in missing)
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
        given = {name: _plain(value) for name, value in self.values.items() if value is not None}
        if self.command.dial:
            made["method"].options, made["method"].method = options, self.named.names
        words = {"word": self.word, "given": given, "command": self.command.name, "imports": tuple(self.named.specs)}
        return SimpleNamespace(**made, **words, named=self.named)

    def fill(self, config: dict[str, Any], where: str) -> None:
        """Take from a file of options what was not typed."""
        for name, value in config.items():
            if name.removeprefix("no-") not in self.values:
                self._take(name, value if isinstance(value, list) else [value], where)

    def _stray(self, word: str) -> None:
        if self.command.word and self.word is None:
            self.word = self._known_word(word)
            return
        if not word:
            raise ValueError("an argument is empty: give a value, or leave it out")
        takes = self.command.takes
        if takes and not word.startswith("-"):
            if takes in self.values and not self.known[takes].kind.many:
                raise ValueError(f"{word!r} is a second {takes.upper()}: give one, of many files a pattern in quotes")
            self._taken(True, [word])
            self._take(takes, [word])
            return
        raise ValueError(f"{word!r} belongs to no option: {self._meant(word)}{self._see()}")

    def _taken(self, alone: bool, words: Sequence[str]) -> None:
        """Raise ValueError where what `takes` names stands once as words alone, and once behind its option."""
        self.taken.add(alone)
        if len(self.taken) > 1:
            takes, before = self.command.takes, " ".join(map(str, _several(self.values[self.command.takes])))
            raise ValueError(
                f"{takes.upper()} is given in two ways, {shortened(before)} and {shortened(' '.join(words))}, once "
                f"behind --{takes} and once without: give all of it in one of them"
            )

    def _meant(self, word: str) -> str:
        """The option that a word without one was likely meant for."""
        if word.startswith("-"):
            options = [name for name in self.known if word != "-" and name.startswith(word.lstrip("-"))]
        elif word in self.named.known:
            options = ["method"]
        elif word.endswith(WEIGHTS):
            options = ["checkpoint"]
        else:
            options = ["data" if Path(word).exists() else "model"] if "_" in word or "/" in word else []
        typed = "" if word.startswith("-") else f" {word}"
        return next((f"did you mean --{name}{typed}? " for name in options if name in self.known), "")

    def _known_word(self, word: str) -> str:
        words, own = self.command.words(), self.named.specs if takes_methods(self.command) else {}
        if words and word not in words and word not in {**own, **dict.fromkeys(own.values())}:
            what = self.command.name.removesuffix("s") if self.command.word == "NAME" else self.command.word.lower()
            hint = _maybe(list(words), word, "did you mean {}? ")
            more = ", or your own as my_file.py:Class" if takes_methods(self.command) else ""
            raise ValueError(f"{what} {word!r} is not known: {hint}choose one of {', '.join(words)}{more}")
        return word

    def _take(self, name: str, words: list[Any], where: str = "") -> None:
        off = name.removeprefix("no-")
        if name == CONFIG:
            self.values[CONFIG] = Path(self._single(name, words))
            return
        option = self.known.get(name) or self.known.get(off)
        if option is None or (off != name and option.name == off and option.kind.type is not bool):
            raise ValueError(where + unknown_option(self.command, self.named, self.known, name, words))
        if option.kind.type is bool:
            self.values[option.name] = self._flag(option, off == name, words)
        elif option.kind.many and (words or not option.bare):
            before = self.values.get(option.name, ()) if self._adds(name) else ()
            read = (self._value(option, word, where) for word in self._several(name, words))
            self.values[option.name] = (*before, *read)
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
            extra = " ".join(map(repr, map(str, words[1:])))
            hint = f": {self._meant(str(words[1]))}".rstrip(" :")
            raise ValueError(f"--{name} takes one value, and {extra} belongs to no option{hint}")
        return words[0]

    def _value(self, option: Option, word: Any, where: str) -> Any:
        text = str(word)
        if text == "":
            raise ValueError(f"--{option.name} is empty: give a value, or leave it out")
        new = RENAMED_VALUES.get((option.name, text))
        if new is not None:
            raise ValueError(f"{where}--{option.name} {text}: it is called {new}, give --{option.name} {new}")
        try:
            return option.kind.read(text)
        except ValueError as error:
            near = _maybe(option.kind.choices, text, "; did you mean {}?") or such_as(option, text)
            raise ValueError(f"{where}--{option.name} {text}: {error}{near}") from None

    def _see(self) -> str:
        return f"see vitrim {self.command.name} --help"


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)


def _is_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)


def _maybe(names: Sequence[str], word: str, text: str) -> str:
    near = nearest(word.lstrip("-"), names)
    return text.format(near[0]) if near else ""


def _plain(value: Any) -> Any:
    """As JSON and TOML have it."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
