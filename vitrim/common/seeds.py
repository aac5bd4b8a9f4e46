"""Seeds for what is drawn."""

from __future__ import annotations

MODULUS = 2**31 - 1


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, the same on every machine."""
    state = 17
    for number in numbers:
        state = (state * 1000003 + number * 2654435761 + 12345) % MODULUS
    return state
