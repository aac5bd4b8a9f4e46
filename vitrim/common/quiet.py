"""Other libraries' remarks kept back while they work."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quiet() -> Generator[None]:
    """No warnings, and no log below an error, of libraries that remark on steps which change nothing for the user. What
    the caller had switched off stays off.

    Example:
        >>> with quiet():
        ...     logging.getLogger("somebody").warning("a remark")
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
