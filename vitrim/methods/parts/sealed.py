"""Options are given once: what runs, what is printed and what is saved must say the same."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any


class Sealed:
    """Base of methods: from the end of the constructor on their options can be read and no longer set.

    Raises ValueError for an attempt: places, learned parts and plans hang on the options.
    """

    @classmethod
    def option_parameters(cls) -> dict[str, inspect.Parameter]:
        """The options as the class's own constructor takes them, in order. A class that has only the constructor of the
        base has none: what that one takes is for the constructors of others."""
        maker = next(above for above in cls.__mro__ if "__init__" in vars(above))
        return {} if Sealed in maker.__bases__ else dict(_parameters(cls))

    @classmethod
    def option_names(cls) -> list[str]:
        """Names of the options, in order."""
        return list(cls.option_parameters())

    def option_values(self) -> dict[str, Any]:
        """Every option with its value. Raises ValueError for one that its constructor has not kept."""
        names, kind = self.option_names(), type(self).__name__
        lost = [name for name in names if not hasattr(self, name)]
        if lost:
            raise ValueError(f"{kind} does not keep its option {lost[0]}: set self.{lost[0]} in {kind}.__init__")
        return {name: getattr(self, name) for name in names}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _sealing(cls.__init__)

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("sealed") and name in _parameters(type(self)):
            kind = type(self).__name__
            raise ValueError(
                f"{name} of {kind} cannot be changed once it is made: put a new method on the dense model, such as "
                f"vitrim.reduce(fast.backbone, vitrim.{kind}({name}=...))"
            )
        super().__setattr__(name, value)


@functools.lru_cache(maxsize=256)
def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """What the class's constructor takes. Searches ask thousands of times, and inspect reads it anew each time."""
    return inspect.signature(cls).parameters


def _sealing(init: Any) -> Any:
    """The same constructor; the outermost one of an object closes it."""

    @functools.wraps(init)
    def wrapped(self, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self).__init__ is wrapped:
            self.sealed = True

    return wrapped
