"""The pages list the classes of transformers that are run: all of them, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vitrim
from vitrim.backbones.transformers.dialects import ENTRIES
from vitrim.backbones.transformers.towers import READERS
from vitrim.backbones.transformers.wrapper import CLASSES

DOCS = Path(vitrim.__file__).parents[1] / "docs"


@pytest.mark.parametrize(("page", "wanted"), [("transformers.md", {*ENTRIES, *CLASSES}), ("vlm.md", {*READERS})])
def test_a_page_lists_the_classes(page, wanted):
    section = (DOCS / page).read_text().split("## Which models\n")[1].split("\n## ")[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == wanted


def test_the_page_of_backbones_counts_them():
    text = (DOCS / "backbones.md").read_text()
    assert f"{len(ENTRIES)} classes of Hugging Face transformers" in text
    assert f"{len(READERS)} of [vision-language models]" in text and f"its {len(CLASSES)} wrappers" in text
