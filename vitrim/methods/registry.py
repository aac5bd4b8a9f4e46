"""Methods by name: vitrim's own, and those of other people."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from ..common.absent import absent, absent_class
from .base import Method

AUTO = "auto"  # in the place of a name: `vitrim.reduce` picks a method
METHODS: dict[str, type[Method]] = {}  # the one list that `reduce`, `load` and the command line read
OWN = __package__
PARTS = {  # what a method of one's own must define, in words
    "forward": "forward(tokens, evidence, place), which gives the Reduction at a place",
    "count": "count(place, n), which says how many of n patch tokens are left after it",
}
AnyMethod = TypeVar("AnyMethod", bound=type[Method])


def register_method(cls: AnyMethod) -> AnyMethod:
    """Register a class of methods under its `name`, for `vitrim.reduce`, `vitrim.load` and the commands. A decorator.

    cls: a subclass of `vitrim.Method` with a `name`, a `forward` and a `count`; the `Args:` of its docstring are the
         help of its options on the command line

    Raises ValueError for what is no such class, and for a name that is taken.

    Example:
        >>> from vitrim import Keep
        >>> @vitrim.register_method
        ... class First(vitrim.Method):
        ...     '''Keep the first patches of every image.
        ...
        ...     Args:
        ...         keep: keep rate at each place
        ...     '''
        ...     name, title = "first", "keep the first patches"
        ...     def __init__(self, keep=0.5, at=None):
        ...         super().__init__(keep, at)
        ...     def forward(self, tokens, evidence, place):
        ...         kept = torch.arange(self.count(place, tokens.n), device=tokens.x.device)
        ...         return Keep(kept.expand(tokens.batch, -1))
        ...     def count(self, place, n):
        ...         return max(1, int(place.keep * n))
        >>> vitrim.profile(vitrim.reduce(model, "first", keep=0.5)).tokens
        [64, 32, 16, 8]
    """
    _check(cls)
    check_name_free(cls)
    METHODS[cls.name] = cls
    return cls


def check_name_free(cls: type[Method]) -> None:
    """Raise ValueError where another class has the name of this one.

    Example:
        >>> class Mine(vitrim.EViT):
        ...     pass
        >>> check_name_free(Mine)
        Traceback (most recent call last):
        ValueError: the name 'evit' of Mine is taken by vitrim's own: give the class another name
    """
    if cls.name == AUTO:
        raise ValueError(f"the name {AUTO!r} of {cls.__name__} stands for any method: give the class another name")
    there = METHODS.get(cls.name)
    if there is not None and import_path(there) != import_path(cls):
        whose = "vitrim's own" if is_own(there) else import_path(there)
        raise ValueError(f"the name {cls.name!r} of {cls.__name__} is taken by {whose}: give the class another name")


def import_method(spec: str) -> type[Method]:
    """Import a file, and register the method that it holds. The file's code runs.

    spec: "my_file.py:Mine", a path and the name of a class in it

    Raises ValueError where there is no such file or class, and where the file itself fails.

    Example:
        >>> import_method("mine.py:Mine")
        Traceback (most recent call last):
        ValueError: method mine.py:Mine: there is no file mine.py: give my_file.py:Class
    """
    path, _, name = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"method {spec}: {absent('file', path, 'give my_file.py:Class')}")
    module = _imported(file)
    cls = getattr(module, name, None)
    if not isinstance(cls, type) or not issubclass(cls, Method):
        raise ValueError(absent_class(path, name, _classes(module)))
    return register_method(cls)


def _classes(module: ModuleType) -> list[str]:
    """The names of a module's own classes of methods."""
    own = {name: cls for name, cls in vars(module).items() if isinstance(cls, type) and issubclass(cls, Method)}
    return [name for name, cls in own.items() if cls.__module__ == module.__name__]


def is_own(cls: type[Method]) -> bool:
    """Whether a method is vitrim's own.

    Example:
        >>> is_own(vitrim.EViT)
        True
    """
    return cls.__module__.startswith(f"{OWN}.")


def source_hash(cls: type[Method]) -> str | None:
    """16 digits that change with the source of a class, and of the classes below it that are not vitrim's own; None
    for vitrim's own, and where there is no source (a notebook, an exec).

    Example:
        >>> source_hash(vitrim.EViT)  # its version says it
    """
    others = [line for line in cls.__mro__ if issubclass(line, Method) and not is_own(line)]
    try:
        sources = [inspect.getsource(line) for line in others]
    except (OSError, TypeError):
        return None
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16] if sources else None


def import_path(cls: type) -> str:
    """`module:Class`; of a script that runs, by the name that others import it under.

    Example:
        >>> import_path(vitrim.EViT)
        'vitrim.methods.evit:EViT'
    """
    module = cls.__module__
    if module == "__main__":
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem
    return f"{module}:{cls.__qualname__}"


def _check(cls: type) -> None:
    if not isinstance(cls, type) or not issubclass(cls, Method):
        raise ValueError(f"{cls!r} is no method: register a subclass of vitrim.Method")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][\w-]{0,50}", name):
        raise ValueError(
            f'{cls.__name__} has the name {name!r}: give it a word in small letters, such as name = "mine"'
        )
    missing = [part for part in PARTS if getattr(cls, part) is getattr(Method, part)]
    if missing:
        wanted = ", and ".join(PARTS[part] for part in missing)
        raise ValueError(f"{cls.__name__} has no {' and no '.join(missing)}: every method needs {wanted}")
    if not hasattr(cls, "title"):
        cls.title = (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")


def _imported(file: Path):
    """The module of a file, by the file's name, its folder being where it finds its neighbours."""
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    try:
        module = importlib.import_module(file.stem)
    except Exception as error:  # it is somebody else's code
        line = max(
            (f.lineno or 0 for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)), default=0
        )
        where = f"{file}:{line}" if line else str(file)
        raise ValueError(f"{where} cannot be imported ({type(error).__name__}: {error})") from error
    if Path(getattr(module, "__file__", None) or "").resolve() != file:
        raise ValueError(
            f"{file} cannot be imported: Python has another module {file.stem!r}; give the file another name"
        )
    return module
