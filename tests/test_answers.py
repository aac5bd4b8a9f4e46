"""Every mistake in `answers.md` is answered as the file says: in one short line, without a traceback."""

from __future__ import annotations

import pytest
from answers import FILE, SHELL, answer_to, entries, prepared

ENTRIES = entries(FILE.read_text(encoding="utf-8"))
LONGEST = 300


@pytest.fixture(scope="module")
def names():
    with prepared() as known:
        yield known


@pytest.mark.parametrize("typed, answer", ENTRIES, ids=[typed for typed, _ in ENTRIES])
def test_a_mistake_is_answered_as_written(typed, answer, names):
    said = answer_to(typed, names)
    assert said == answer, "if the new answer is better, write it by `python tests/answers.py`"
    assert said.startswith("vitrim: error: " if typed.startswith(SHELL) else ("ValueError: ", "TypeError: "))
    assert "\n" not in said and len(said) <= LONGEST


def test_there_are_enough_mistakes_and_none_twice():
    assert len({typed for typed, _ in ENTRIES}) == len(ENTRIES) > 60


def test_on_the_command_line_help_is_in_flags():
    """No answer to a command names an argument of Python's, and none to a call a flag."""
    commands = [answer for typed, answer in ENTRIES if typed.startswith(SHELL)]
    calls = [answer for typed, answer in ENTRIES if not typed.startswith(SHELL)]
    assert not [answer for answer in commands if "=" in answer]
    assert not [answer for answer in calls if "--" in answer]
