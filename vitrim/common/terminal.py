"""What the terminal at the other end can show: how many columns, and which characters."""

from __future__ import annotations

import codecs
import locale
import os
from typing import Any

USUAL_WIDTH = 80  # of a terminal that does not say
SPELT = {
    "\u03ba": "kappa",
    "\u00b1": "+/-",
    "\u00d7": "x",
    "\u2013": "-",
    "\u2014": "-",
    "\u2500": "-",
    "\u2026": "...",
    "\u2019": "'",
}


def terminal_width(stream: Any) -> int | None:
    """Columns of the terminal that a stream writes to; None for a file or a pipe, which fold nothing.

    Example:
        >>> import io
        >>> print(terminal_width(io.StringIO()))
        None
    """
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    except (OSError, ValueError, AttributeError):  # no terminal, a closed stream, a notebook's stream
        return None


def speak_as_told(stream: Any) -> None:
    """Let a text stream write what it cannot encode in letters that it can, and ASCII alone under LC_ALL=C.

    Python writes UTF-8 even there, as it takes the C locale for a locale that nobody has chosen.

    Example:
        >>> import io
        >>> stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
        >>> speak_as_told(stream)
        >>> _ = stream.write("\\u03ba = 0.7"), stream.flush()
        >>> stream.buffer.getvalue()
        b'kappa = 0.7'
    """
    if hasattr(stream, "reconfigure"):
        told = codecs.lookup(locale.getencoding()).name
        stream.reconfigure(errors="vitrim_spelt", **({"encoding": "ascii"} if told == "ascii" else {}))


def _spelt(error: UnicodeError) -> tuple[str, int]:
    """What Python writes in place of characters that the stream's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(SPELT.get(c, c.encode("ascii", "backslashreplace").decode()) for c in missing), error.end


codecs.register_error("vitrim_spelt", _spelt)
