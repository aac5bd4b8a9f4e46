"""What cannot be, with the way out as data beside the words."""

from __future__ import annotations


class UnfitModel(ValueError):
    """A model that a method, as it is, does not fit.

    needs: options of the method with which it would

    Example:
        >>> UnfitModel("evit needs a [CLS] token", score="tokens").needs
        {'score': 'tokens'}
    """

    def __init__(self, message: str, **needs: str):
        super().__init__(message)
        self.needs = needs
