"""Options are given once: what runs, what is printed and what is saved must say the same."""

from __future__ import annotations

import functools
import inspect
from typing import Any


class Sealed:
    """Base of methods: from the end of the constructor on their options can be read and no longer set.

    Raises ValueError for an attempt: places, learned parts and plans hang on the options.
    """

    @classmethod
    def option_names(cls) -> list[str]:
        """Names of the options, in order."""
        return list(inspect.signature(cls).parameters)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _sealing(cls.__init__)

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("sealed") and name in self.option_names():
            kind = type(self).__name__
            raise ValueError(
                f"{name} of {kind} cannot be changed once it is made: put a new method on the dense model, such as "
                f"vitrim.reduce(fast.backbone, vitrim.{kind}({name}=...))"
            )
        super().__setattr__(name, value)


def _sealing(init: Any) -> Any:
    """The same constructor; the outermost one of an object closes it."""

    @functools.wraps(init)
    def wrapped(self, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self).__init__ is wrapped:
            self.sealed = True

    return wrapped
