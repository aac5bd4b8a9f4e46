"""What CONTRIBUTING.md and docs/methods/your-own.md show is a method that works."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from settings import BACKBONES, dense, images

import vitrim
from vitrim.methods import METHODS

ROOT = Path(__file__).parents[1]
DEIT = next(row for row in BACKBONES if row.name == "deit")


@pytest.fixture
def forgotten(monkeypatch):
    """Methods that a test registers are not known to the next one."""
    known = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(known)


def added(file: str) -> str:
    """The lines that the diff in CONTRIBUTING.md adds to a file."""
    (diff,) = re.findall(r"```diff\n(.*?)\n```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    section = diff.split(f"+++ b/{file}\n")[1].split("\n--- ")[0]
    return "\n".join(line[1:] for line in section.splitlines() if line.startswith("+"))


def test_the_method_of_the_diff_is_one_file_one_line_one_row_one_page(forgotten, tmp_path, monkeypatch):
    code = added("vitrim/methods/norm.py").replace("from ..", "from vitrim.").replace("from .", "from vitrim.methods.")
    (tmp_path / "norm_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    vitrim.methods.import_method(f"{tmp_path / 'norm_method.py'}:Norm")
    fast = vitrim.reduce(dense(DEIT), "norm", keep=0.5, at=(1, 2))
    assert vitrim.profile(fast).tokens == [25, 13, 7, 7] and fast(images(DEIT)).shape[0] == len(images(DEIT))
    assert len(added("vitrim/methods/__init__.py").splitlines()) == len(added("tests/settings.py").splitlines()) == 1
    assert added("docs/methods/norm.md").startswith("# Norm")
    sys.modules.pop("norm_method")


def test_the_method_of_the_page_is_registered_and_runs(forgotten, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "methods" / "your-own.md").read_text()
    (tmp_path / "my_file.py").write_text(re.findall(r"```python\n(# my_file\.py\n.*?)```", page, re.DOTALL)[0])
    monkeypatch.syspath_prepend(tmp_path)
    vitrim.methods.import_method(f"{tmp_path / 'my_file.py'}:Largest")
    fast = vitrim.reduce(dense(DEIT), "largest", keep=0.5, at=(1, 2))
    assert vitrim.profile(fast).tokens == [25, 12, 6, 6]
    sys.modules.pop("my_file")
