"""How a number is typed, for words that are none: 0,7 or 60% or abc."""

from __future__ import annotations

import re

from .spec import Option

# Of options whose default says no number.
EXAMPLES = {
    **{"keep": "0.7", "macs": "0.6", "best-under": "0.6", "target-change": "0.5", "latency": "20", "crop-pct": "0.9"},
    **{"image-size": "224", "batch-size": "16", "limit": "500", "lr": "0.0001", "min-lr": "0.000001"},
    **{"at": "3", "blocks": "3"},
}
_THOUSANDS, _PERCENT = re.compile(r"\d{1,3}(,\d{3})+"), re.compile(r"\d+(\.\d+)?%")
_FIRST = re.compile(r"-?\d+(\.\d+)?(?![\w.])")


def such_as(option: Option, text: str) -> str:
    """What follows `give a number` where `text` is none: the number that is likely meant, else an example; empty for
    options that take none.

    Example:
        >>> from vitrim.cli.shared.kinds import Kind
        >>> keep = Option("keep", ("options", "keep"), Kind(float, many=True), "keep rate")
        >>> such_as(keep, "abc"), such_as(keep, "0,8"), such_as(keep, "60%")
        (', such as 0.7', ', such as 0.8', ', a share such as 0.6')
        >>> such_as(keep, "0.7,0.5")
        '; several are separated by spaces: --keep 0.7 0.5'
    """
    kind, parts = option.kind, text.split(",")
    if kind.type not in (int, float):
        return ""
    if kind.type is float and _PERCENT.fullmatch(text):
        return f", a share such as {float(text[:-1]) / 100:g}"
    if kind.type is float and len(parts) == 2 and all(part.isdigit() for part in parts):
        return f", such as {'.'.join(parts)}"
    if kind.many and len(parts) > 1 and all(re.fullmatch(r"\d*\.?\d+", part) for part in parts):
        return f"; several are separated by spaces: --{option.name} {' '.join(parts)}"
    if kind.type is int and _THOUSANDS.fullmatch(text):
        return f", such as {text.replace(',', '')}"
    example = EXAMPLES.get(option.name) or ((found := _FIRST.match(option.shown)) and found[0])
    return f", such as {example}" if example else ""
