"""The methods that a command line names, and the options that it may have for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.absent import absent, absent_class
from ...common.text import did_you_mean
from .kinds import Kind
from .signatures import AUTO, SHARED, MethodOption, Signature, methods_in, own_signatures, signature_in
from .spec import Command, Option

FILE = ".py:"


@dataclass(frozen=True)
class Named:
    """names: of the methods, as they are registered; specs: those of the user's own files, `my_file.py:Class`, with
    their names; known: what may be named."""

    names: tuple[str, ...]
    specs: dict[str, str]
    known: dict[str, Signature]

    @property
    def signatures(self) -> list[Signature]:
        """Of the methods named."""
        return [self.known[name] for name in self.names]

    def options(self, command: Command) -> Iterator[Option]:
        """The options of the methods named; of all, where none is: a saved folder may have any."""
        if not command.dial:
            return
        taken = {option.name for option in command.options()}
        for name, owners in _owners(self.signatures or self.known.values()).items():
            if name.replace("_", "-") not in taken:
                yield _merged(name, owners, command.dial)


def named_methods(command: Command, arguments: Sequence[str], in_file: Sequence[str] = ()) -> Named:
    """Read the words after --method, or else what a file of options says.

    Raises ValueError for names and files that are not known.
    """
    known = {**own_signatures(), **({AUTO.name: AUTO} if command.dial else {})}
    names, specs = [], {}
    for word in _typed(command, arguments) or (in_file if takes_methods(command) else ()):
        if FILE in word:
            signature = _of_file(word)
            known[signature.name] = signature
            specs[word] = signature.name
            word = signature.name
        if word not in known:
            if command.takes and Path(word).exists():
                raise ValueError(f"{word!r} stands behind --method: give it before, or as --{command.takes} {word}")
            if word.endswith(".py"):
                raise ValueError(_no_class(word))
            apart = word.replace(",", " ") if "," in word else ""
            hint = f"separate methods by spaces, {apart}; " if apart else did_you_mean(word, known)
            raise ValueError(
                f"method {word!r} is not known: {hint}methods are {', '.join(known)}, or your own as my_file.py:Class"
            )
        names.append(word)
    return Named(tuple(dict.fromkeys(names)), specs, known)


def takes_methods(command: Command) -> bool:
    """Whether methods may be named to a command, a user's own among them."""
    return bool(command.dial) or command.words is own_signatures


def _typed(command: Command, arguments: Sequence[str]) -> list[str]:
    """The words behind --method; where methods are what a command lists, files that stand without it too."""
    if not takes_methods(command):
        return []
    alone = zip(["=", *arguments], arguments, strict=False) if command.words is own_signatures else ()
    words = [word for before, word in alone if "=" in before and not word.startswith("-")]
    files = [word for word in words if FILE in word or word.endswith(".py")]
    return [*files, *_words(arguments)]


def _no_class(word: str) -> str:
    """What is said of a file without a class behind it."""
    file = Path(word).expanduser()
    return absent_class(word, "", methods_in(file)) if file.is_file() else absent("file", word, "give my_file.py:Class")


def _words(arguments: Sequence[str]) -> Iterator[str]:
    inside = False
    for argument in arguments:
        if argument.startswith("--"):
            option, _, value = argument.partition("=")
            inside = option == "--method"
            if inside and value:
                yield value
        elif inside:
            yield argument


def _of_file(spec: str) -> Signature:
    path, _, cls = spec.rpartition(":")
    signature = signature_in(Path(path).expanduser(), cls)
    if signature is not None:
        return signature
    from ...methods import import_method  # its class takes its options from elsewhere: only Python can tell

    return _of_class(import_method(spec))


def _of_class(cls: Any) -> Signature:
    from .kinds import kind_of

    options = tuple(
        MethodOption(
            p.name, kind_of(str(p.annotation) if p.annotation is not p.empty else "", p.default), p.default, ""
        )
        for p in cls.option_parameters().values()
    )
    return Signature(cls.name, cls.__name__, cls.title, cls.title, "", cls.dial, cls.guided, options)


def _owners(signatures: Any) -> dict[str, list[tuple[Signature, MethodOption]]]:
    owners: dict[str, list[tuple[Signature, MethodOption]]] = {}
    for signature in signatures:
        for option in signature.options:
            if option.name not in SHARED:
                owners.setdefault(option.name, []).append((signature, option))
    return owners


def _merged(name: str, owners: list[tuple[Signature, MethodOption]], dial: str) -> Option:
    """One option for all methods that have it."""
    kinds = [option.kind for _, option in owners]
    turned = any(signature.dial == name for signature, _ in owners)
    type_ = float if any(kind.type is float for kind in kinds) else kinds[0].type
    kind = Kind(type_, turned or any(kind.many for kind in kinds))
    text = owners[0][1].help or name
    texts = dict.fromkeys(option.help for _, option in owners if option.help)
    if len(texts) > 1:
        text = "; ".join(f"{signature.name}: {option.help}" for signature, option in owners if option.help)
    shown = dict.fromkeys("" if option.default is None else str(option.default) for _, option in owners)
    section = f"Options of {', '.join(signature.name for signature, _ in owners)}"
    default = next(iter(shown)) if len(shown) == 1 else "the method's"
    default = "" if kind.type is bool else default
    help_ = f"{text}; {dial}" if turned else text
    return Option(name.replace("_", "-"), ("options", name), kind, help_, default, True, False, section)
