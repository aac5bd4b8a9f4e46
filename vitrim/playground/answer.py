"""What a visitor is shown, as HTML that fetches nothing: figures in a table, patches as pictures inside of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..view.drawing import HEAT_SCALE, block_layers, heat_layer, image_uri
from ..view.page import photograph_uri
from .showing import Shown

TEMPLATE = Path(__file__).with_name("answer.html.j2")


def answer_html(shown: Shown) -> str:
    """The table of figures, and below it the photograph, the heat map, and the patches in every block."""
    seen, fates = shown.seen, shown.seen.fates
    blocks = range(len(fates.codes))
    layers = block_layers(seen.pixels, fates.groups, fates.ringed)
    return _rendered(
        shown=shown,
        rows=_rows(shown),
        photograph=photograph_uri(seen),
        heat=image_uri(heat_layer(seen.pixels, fates.work, len(blocks))),
        worked=_worked(fates.work),
        blocks=[(uri, fates.caption(i)) for i, uri in zip(blocks, layers, strict=True)],
        signs={
            "rests": sorted(fates.rests_found),
            "shared": bool((fates.codes == 2).any()),
            "rings": fates.ringed.any(),
        },
        scale=", ".join(f"rgb({red} {green} {blue})" for red, green, blue in HEAT_SCALE.tolist()),
    )


def message_html(message: str) -> str:
    """A sentence in place of the figures."""
    return _rendered(message=message)


def _rendered(**words: Any) -> str:
    from jinja2 import Environment

    text = TEMPLATE.read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text).render(**words)


def _rows(shown: Shown) -> list[tuple[str, str, str]]:
    """What is compared: its name for scripts, the dense model's figure, and the reduced one's."""
    (dense_gmacs, gmacs), (dense_ms, ms) = shown.gmacs, shown.ms
    return [
        ("GMACs", f"{dense_gmacs:.3g}", f"{gmacs:.3g} ({100 * gmacs / dense_gmacs:.0f} %)"),
        ("milliseconds", f"{dense_ms:.1f}", f"{ms:.1f} ({dense_ms / ms:.2f} times as fast)"),
    ]


def _worked(work: np.ndarray) -> str:
    return f"{work.min():.3g} to {work.max():.3g}, mean {work.mean():.1f}"
