"""The folders are the architecture: imports go one way, and timm is asked in few places."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import vitrim

ROOT = Path(vitrim.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)
# A room imports from those before it; `data` and `common` from nothing but each other, everybody from them.
ORDER = ("core", "backbones", "methods", "runtime", "evaluate", "view", "training", "demo", "cli")
ASIDE = {"data", "common"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from, imports inside functions included."""
    package = ["vitrim", *path.relative_to(ROOT).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = [*base, *(node.module.split(".") if node.module else [])]
            names |= {".".join([*whole, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("vitrim.")} & {*ORDER, *ASIDE}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = room(path)
    allowed = ASIDE if own in ASIDE else {*ORDER[: ORDER.index(own) + 1], *ASIDE}
    assert imported(path) <= allowed, f"{own} may import from {', '.join(sorted(allowed))}"


def test_every_room_says_in_a_sentence_what_it_is():
    for folder in {path.parent for path in FILES}:
        text = (folder / "__init__.py").read_text()
        assert re.match(r'"""\S[^\n]+\.', text), f"{folder.relative_to(ROOT)}/__init__.py begins with no sentence"


def test_public_names_are_there():
    assert all(getattr(vitrim, name) is not None for name in vitrim.__all__)
    assert set(vitrim._HOME_OF) | {"__version__"} == set(vitrim.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = vitrim.nothing
