"""Draw the rooms of vitrim and who imports whom, from the imports in the code: docs/images/imports.svg.

    python benchmarks/draw_imports.py

Rooms stand in the order in which they may import: from those below; the thicker an arrow, the more files do.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, PICTURE = ROOT / "vitrim", ROOT / "docs" / "images" / "imports.svg"
PLACES = {  # room: (column, row)
    **{"core": (1, 0), "backbones": (1, 1), "methods": (1, 2), "runtime": (1, 3)},
    **{
        "evaluate": (0, 4),
        "inference": (0, 5.5),
        "testing": (3, 5.2),
        "playground": (3, 6.2),
        "deploy": (2, 4),
        "view": (3, 4),
        "training": (1, 5),
        "tune": (2, 4.8),
        "demo": (2, 5.5),
        "cli": (1, 6.5),
    },
    **{"common": (3, 1), "data": (3, 3)},
}
WIDTH, HEIGHT = 0.62, 0.42


def imports() -> Counter[tuple[str, str]]:
    """(room, room it imports from) -> files that do."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        if len(parts) > 1:
            found.update({(parts[0], other) for other in rooms_of(path, ["vitrim", *parts[:-1]]) - {parts[0]}})
    return found


def rooms_of(path: Path, package: list[str]) -> set[str]:
    """The rooms that a file imports from."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            whole = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            rooms |= {part for part in whole[1:2] if part in PLACES}
    return rooms


def draw(found: Counter[tuple[str, str]]) -> None:
    """Boxes, and an arrow for every pair."""
    figure, axes = plt.subplots(figsize=(7, 6))
    for (user, used), files in found.items():
        (x0, y0), (x1, y1) = PLACES[user], PLACES[used]
        style = {"arrowstyle": "-|>", "color": "0.55", "lw": 0.6 + 0.12 * files, "shrinkA": 16, "shrinkB": 16}
        bend = 0.0 if abs(y0 - y1) <= 1.5 or x0 != x1 else 0.35
        axes.annotate("", (x1, y1), (x0, y0), arrowprops={**style, "connectionstyle": f"arc3,rad={bend}"}, zorder=1)
    for room, (x, y) in PLACES.items():
        files = len(list((PACKAGE / room).rglob("*.py")))
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0.04", fc="#eef3fb", ec="#34558b", zorder=2))
        axes.text(x, y + 0.06, room, ha="center", va="center", weight="bold", zorder=3)
        axes.text(x, y - 0.14, f"{files} files", ha="center", va="center", fontsize=7, zorder=3)
    axes.set(xlim=(-0.6, 3.6), ylim=(-0.5, 7.1))
    axes.axis("off")
    plt.rcParams["svg.hashsalt"] = "vitrim"  # the same picture from the same code
    figure.savefig(PICTURE, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    draw(imports())
    print(PICTURE.relative_to(ROOT))
