"""What a class of methods lacks is said with what it is for."""

from __future__ import annotations

import pytest

import vitrim
from vitrim.methods import METHODS

COUNT = "count(place, n), which says how many of n patch tokens are left after it"
FORWARD = "forward(tokens, evidence, place), which gives the Reduction at a place"


def forward(self, tokens, evidence, place):
    return None


def count(self, place, n):
    return n


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"forward": forward}, f"Mine has no count: every method needs {COUNT}"),
        ({"count": count}, f"Mine has no forward: every method needs {FORWARD}"),
        ({}, f"Mine has no forward and no count: every method needs {FORWARD}, and {COUNT}"),
    ],
)
def test_what_is_missing_and_what_it_does(body, said):
    known = dict(METHODS)
    with pytest.raises(ValueError) as caught:
        vitrim.register_method(type("Mine", (vitrim.Method,), {"name": "mine", **body}))
    assert str(caught.value) == said and len(said) <= 300 and known == METHODS
