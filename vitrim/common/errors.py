"""Mistakes in the use of options, told in the words of where the user stands: arguments in Python, flags in a shell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Part = str | Mapping[str, Any]


class OptionError(ValueError):
    """A message in parts: text, and options by name with their values (...: the name alone).

    In Python it reads `keep=1.2: give ...`; `told` says it in other words, such as `--keep 1.2: give ...`.

    Example:
        >>> error = OptionError({"limit": -3}, ": give a whole number from 1")
        >>> str(error)
        'limit=-3: give a whole number from 1'
        >>> error.told(lambda options: " ".join(f"--{name} {value}" for name, value in options.items()))
        '--limit -3: give a whole number from 1'
    """

    def __init__(self, *parts: Part):
        super().__init__(*parts)
        self.parts = parts

    def __str__(self) -> str:
        return self.told(as_arguments)

    def told(self, in_words: Callable[[Mapping[str, Any]], str]) -> str:
        """The message, its options as `in_words` has them."""
        return "".join(part if isinstance(part, str) else in_words(part) for part in self.parts)


class UnfitModel(OptionError):
    """A model that a method, as it is, does not fit; the last options of the message are those with which it would.

    Example:
        >>> unfit = UnfitModel("evit needs a [CLS] token: use ", {"score": "tokens"})
        >>> str(unfit), unfit.needs
        ('evit needs a [CLS] token: use score="tokens"', {'score': 'tokens'})
    """

    @property
    def needs(self) -> dict[str, Any]:
        """Options of the method with which the model would do."""
        return dict(next(part for part in reversed(self.parts) if not isinstance(part, str)))


def as_arguments(options: Mapping[str, Any]) -> str:
    """Options as a call in Python has them.

    Example:
        >>> as_arguments({"score": "tokens", "keep": (0.9, 0.8)}), as_arguments({"limit_per_class": ...})
        ('score="tokens", keep=(0.9, 0.8)', 'limit_per_class')
    """
    return ", ".join(name if value is ... else f"{name}={_literal(value)}" for name, value in options.items())


def _literal(value: Any) -> str:
    text = " ".join(repr(value).split())
    if isinstance(value, str) and '"' not in text and "\\" not in text:
        text = f'"{text[1:-1]}"'
    return text if len(text) <= 60 else f"{text[:57]}..."
