"""What a command takes: its options as data, so that help, parsing and completion need neither torch nor timm."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from .kinds import Kind, kind_of

# What several values of a keep rate mean to a command (`Command.dial`). With PLACES it takes one method at a time.
PLACES, ROWS = "several values: one for each of the method's places", "several values: one row for each"


@dataclass(frozen=True)
class Option:
    """An option of the command line.

    name:     with dashes, without the two in front
    target:   (group, field) of the configuration where its value goes
    shown:    the default in words
    common:   whether the short help has it
    section:  its heading in the help
    bare:     it may stand without a value
    metavar:  what stands for its value in the help; empty: by its kind
    """

    name: str
    target: tuple[str, str]
    kind: Kind
    help: str
    shown: str = ""
    common: bool = False
    required: bool = False
    section: str = ""
    bare: bool = False
    metavar: str = ""


@dataclass(frozen=True)
class Command:
    """A command.

    summary:  one line
    about:    what it does, in a few sentences
    examples: command lines that a user may copy
    groups:   classes of options, by the name under which the command finds them
    dial:     what several values of a keep rate mean to it; empty: it takes no method
    word:     a word that it takes beside its options, such as NAME; `words` gives those that it may be, none: any;
              `needs_word` says that it must be given
    takes:    the option whose value, or values, may stand without its name; that name in capitals in the help
    endings:  of the file that --out names, where it is one file
    check:    raises ValueError for options that do not go together; it imports nothing slow
    enough:   the option beside which none is required
    begins:   a line for the terminal before anything slow is imported, of what answers late
    """

    name: str
    summary: str
    about: str
    examples: tuple[str, ...]
    groups: dict[str, Any] = field(default_factory=dict)
    dial: str = ""
    word: str = ""
    words: Callable[[], Collection[str]] = tuple
    needs_word: bool = False
    takes: str = ""
    endings: tuple[str, ...] = ()
    check: Callable[[Any], None] = lambda config: None
    begins: str = ""
    enough: str = ""

    def options(self) -> Iterator[Option]:
        """Its options, in order; those of methods come besides."""
        for group, cls in self.groups.items():
            yield from options_of(group, cls)


def option(
    help: str,
    default: Any = None,
    *,
    shown: str = "",
    common: bool = False,
    choices: tuple[str, ...] = (),
    bare: bool = False,
    metavar: str = "",
) -> Any:
    """A field of a class of options. help: one line, plain words; shown: the default, where it says nothing itself."""
    about = {"help": help, "shown": shown, "common": common, "choices": choices, "bare": bare, "metavar": metavar}
    return field(default=default, metadata=about)


def required(help: str, metavar: str = "") -> Any:
    """A field without a default: it must be given."""
    return field(metadata={"help": help, "shown": "", "common": True, "choices": (), "bare": False, "metavar": metavar})


def options_of(group: str, cls: Any) -> Iterator[Option]:
    """The options of a class of options."""
    section = (cls.__doc__ or "").splitlines()[0].rstrip(".")
    for f in fields(cls):
        about, kind = f.metadata, kind_of(str(f.type), f.default)
        kind = Kind(str, kind.many, about["choices"]) if about["choices"] else kind
        must = f.default is MISSING
        shown = about["shown"] or ("" if must else _shown(f.default))
        yield Option(
            f.name.replace("_", "-"),
            (group, f.name),
            kind,
            about["help"],
            shown,
            about["common"],
            must,
            section,
            about["bare"],
            about["metavar"],
        )


def _shown(default: Any) -> str:
    if default is None or default == () or default is False:
        return ""
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
