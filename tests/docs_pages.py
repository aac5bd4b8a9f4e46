"""The pages of the docs taken apart: blocks of code with what stands above them, and links.

A block of Python runs. What cannot run has a line above it that says why:

    <!-- not run: it needs eight GPUs -->          nobody runs it
    <!-- from: vitrim/runtime/loop.py -->          its lines are lines of that file

A first line `# name.py` makes it a file of that name. A `text` block right behind a block is what that block prints.
A block without a language holds command lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|from): (?P<why>[^\n]+?) -->\n\s*)?"
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\[[^\]]+\]\((?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")


@dataclass(frozen=True)
class Block:
    """One block of code.

    line:     of the page, from 1
    mark:     "not run", "from" or ""; why: what stands behind it
    printed:  the text block right behind it, "" where there is none
    """

    line: int
    language: str
    code: str
    mark: str
    why: str
    printed: str = ""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order; those that show what another one prints are its `printed`."""
    text, found, end = page.read_text(), [], -1
    for match in BLOCK.finditer(text):
        if match["language"] == "text" and found and not text[end : match.start()].strip():
            before = found.pop()
            found.append(Block(**{**vars(before), "printed": match["code"]}))
        else:
            line = text.count("\n", 0, match.start("code"))
            mark, why = match["mark"] or "", match["why"] or ""
            found.append(Block(line, match["language"], match["code"], mark, why))
        end = match.end()
    return found


def command_lines(page: Path) -> list[str]:
    """The lines of the blocks without a language, those that go on joined, without comments."""
    joined = [block.code.replace("\\\n", " ") for block in blocks(page) if not block.language and not block.mark]
    lines = [re.sub(r"(^|\s)# .*$", "", line).strip() for code in joined for line in code.splitlines()]
    return [line for line in lines if line]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What a link can point at on a page: its headings as GitHub and mkdocs write them."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}
