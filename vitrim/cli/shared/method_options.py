"""The methods' options as a command line gives them."""

from __future__ import annotations

from typing import Any

from .signatures import SHARED as SHARED


def given_options(config: Any) -> dict[str, Any]:
    """The methods' options that the user typed, by name; several values stay a tuple."""
    return dict(config.options)
