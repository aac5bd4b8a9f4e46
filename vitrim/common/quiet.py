"""Other libraries' remarks kept back while they work."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quiet(log: int = logging.WARNING) -> Generator[None]:
    """No warnings, and no log below an error, of libraries that remark on steps which change nothing for the user. What
    the caller had switched off stays off.

    log: up to which level nothing is logged; with logging.ERROR no errors either, where what is raised says it all

    Example:
        >>> with quiet():
        ...     logging.getLogger("somebody").warning("a remark")
    """
    before = logging.root.manager.disable
    logging.disable(max(before, log))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
