"""A page on this machine where a person drops a photograph, moves a budget, and sees what each method does with it.

Example: two models to pick from; Ctrl-C ends it.
    >>> serve({"dense name": model}, port=7860)  # doctest: +SKIP
"""

from .server import serve

__all__ = ["serve"]
