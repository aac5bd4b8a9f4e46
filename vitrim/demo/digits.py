"""Handwritten digits among distracting fragments: a picture task whose answer lies in a small part of the picture.

Every canvas holds one whole digit at a random place, size and angle. Around it lie quarters of other digits and short
strokes, drawn with the same pen, which say nothing about the label. So most patches can go without harm, and a method
that drops the wrong ones is found out at once.

Source: the 1,797 real digits (8 x 8 pixels) of the UCI "Optical Recognition of Handwritten Digits" data, which
scikit-learn ships (`sklearn.datasets.load_digits`), so no network is needed.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor
from torch.utils.data import Dataset

from ..common.errors import OptionError
from ..common.extras import require

CANVAS_SIZE = 64
CLASSES = 10
MEAN, STD = 0.15, 0.28
DIGIT_SIDES = (16.0, 24.0)
TEST_DIGITS = 500
# Distractors for each pixel of canvas, so that smaller canvases are equally crowded.
FRAGMENT_DENSITY, STROKE_DENSITY = 10 / CANVAS_SIZE**2, 4 / CANVAS_SIZE**2
SPLITS = ("train", "test")


@dataclass(frozen=True)
class SourceDigits:
    """The digits of one split. `indices` are the rows of `load_digits`, so that two splits can be compared."""

    images: Float[Tensor, "n 8 8"]
    labels: Int[Tensor, " n"]
    indices: Int[Tensor, " n"]


@dataclass(frozen=True)
class Canvases:
    """Painted pictures. `boxes`: (top, left, side) of the whole digit in pixels; `sources`: its `load_digits` row."""

    images: UInt8[Tensor, "n h w"]
    labels: Int[Tensor, " n"]
    boxes: Float[Tensor, "n 3"]
    sources: Int[Tensor, " n"]


def source_digits(split: str) -> SourceDigits:
    """The real digits of one split: 1,297 for "train", 500 others for "test", equally balanced, always the same.

    Raises:
        ValueError: `split` is neither "train" nor "test".
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not known; use one of {', '.join(SPLITS)}")
    require("demo", "source_digits")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = train_test_split(range(len(digits.target)), test_size=TEST_DIGITS, stratify=digits.target, random_state=0)
    indices = torch.tensor(sorted(rows[SPLITS.index(split)]))
    images = torch.from_numpy(digits.images).float() / 16
    return SourceDigits(images[indices], torch.from_numpy(digits.target)[indices], indices)


def paint_canvases(digits: SourceDigits, count: int, generator: Generator, size: int = CANVAS_SIZE) -> Canvases:
    """Paint `count` square canvases of `size` pixels, the ten classes as equally often as `count` allows.

    Everything random comes from `generator`; fragments are cut from `digits` too, so a split sees only its own digits.
    """
    chosen = _balanced_choice(digits.labels, count, generator)
    sides = _uniform((count, 1), *DIGIT_SIDES, generator)
    centres = sides[..., None] / 2 + torch.rand(count, 1, 2, generator=generator) * (size - sides[..., None])
    angles = _uniform((count, 1), -0.2, 0.2, generator)
    whole = _place(digits.images[chosen][:, None], centres, sides, angles, size)
    whole = whole * _uniform((count, 1, 1), 0.7, 1.0, generator)
    others = _distractors(digits, centres, sides, size, generator)
    picture = torch.maximum(whole, others) + 0.04 * torch.randn(count, size, size, generator=generator)
    boxes = torch.cat([centres[:, 0].flip(-1) - sides / 2, sides], dim=1)
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    return Canvases(pixels, digits.labels[chosen], boxes, digits.indices[chosen])


def normalise(images: UInt8[Tensor, "*n h w"]) -> Float[Tensor, "*n 1 h w"]:
    """Grey levels 0 to 255 become the model's input: one channel, less `MEAN`, divided by `STD`."""
    return (images.float() / 255 - MEAN).div(STD).unsqueeze(-3)


class DigitCanvases(Dataset):
    """A fixed set of canvases, painted once. Items are (normalised picture [1, 64, 64], label from 0 to 9).

    Args:
        split: "train" or "test"; no source digit is in both.
        count: number of canvases, 1 or more.
        seed: the same split, count and seed give the same canvases.

    Raises:
        ValueError: unknown split, or fewer than one canvas asked for.
    """

    def __init__(self, split: str = "test", count: int = 1000, seed: int = 0) -> None:
        if count < 1:
            raise OptionError({"count": count}, ": give a whole number from 1")
        generator = torch.Generator().manual_seed(seed)
        self.canvases = paint_canvases(source_digits(split), count, generator)
        self.classes = [str(digit) for digit in range(CLASSES)]

    def __len__(self) -> int:
        return len(self.canvases.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "1 h w"], int]:
        return normalise(self.canvases.images[index]), int(self.canvases.labels[index])


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _balanced_choice(labels: Int[Tensor, " m"], count: int, generator: Generator) -> Int[Tensor, " n"]:
    """Rows of `labels`, in random order, such that class counts differ by at most one."""
    wanted = torch.arange(count)[torch.randperm(count, generator=generator)] % CLASSES
    scores = torch.rand(count, len(labels), generator=generator)
    return scores.masked_fill(labels != wanted[:, None], -1).argmax(1)


def _place(
    items: Float[Tensor, "n k a a"],
    centres: Float[Tensor, "n k 2"],
    sides: Float[Tensor, "n k"],
    angles: Float[Tensor, "n k"],
    size: int,
) -> Float[Tensor, "n size size"]:
    """Draw small pictures onto empty canvases; where they overlap, the brighter one shows. Centres are (x, y)."""
    turn = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1).unflatten(-1, (2, 2))
    scaled = turn * (size / sides)[..., None, None]
    shift = scaled @ (1 - 2 * centres / size)[..., None]
    theta = torch.cat([scaled, shift], -1)
    # A few canvases at a time: each item needs a layer of its own, and all of them at once would spill the cache.
    parts = zip(items.split(16), theta.split(16), strict=True)
    return torch.cat([_layers(part, affine, size).amax(1) for part, affine in parts])


def _layers(items: Tensor, theta: Float[Tensor, "n k 2 3"], size: int) -> Float[Tensor, "n k size size"]:
    grid = F.affine_grid(theta.flatten(0, 1), [theta[..., 0, 0].numel(), 1, size, size], align_corners=False)
    drawn = F.grid_sample(items.flatten(0, 1)[:, None], grid, align_corners=False)
    return drawn.view(*items.shape[:2], size, size)


def _distractors(
    digits: SourceDigits, centres: Tensor, sides: Tensor, size: int, generator: Generator
) -> Float[Tensor, "n size size"]:
    """Canvases of fragments and strokes that stay clear of the whole digits at `centres` with `sides`."""
    count = len(centres)
    fragments, strokes = round(FRAGMENT_DENSITY * size**2), round(STROKE_DENSITY * size**2)
    items = torch.cat([_quarters(digits, count, fragments, generator), _strokes(count, strokes, generator)], dim=1)
    items = items * _uniform((*items.shape[:2], 1, 1), 0.6, 1.0, generator)
    # A fragment is a quarter of a digit, half as wide, so its pen is as broad as the whole digit's.
    item_sides = _uniform(items.shape[:2], *DIGIT_SIDES, generator) / 2
    angles = _uniform(items.shape[:2], -torch.pi, torch.pi, generator)
    return _place(items, _clear_centres(centres, sides, item_sides, size, generator), item_sides, angles, size)


def _quarters(digits: SourceDigits, count: int, each: int, generator: Generator) -> Float[Tensor, "n k 4 4"]:
    """Windows of 4 x 4 out of the 8 x 8 pixels of random digits, from where the ink is."""
    windows = digits.images.unfold(1, 4, 1).unfold(2, 4, 1)
    which = torch.randint(len(windows), (count, each), generator=generator)
    top = torch.randint(0, 5, (count, each), generator=generator)
    left = torch.randint(1, 4, (count, each), generator=generator)
    return windows[which, top, left]


def _strokes(count: int, each: int, generator: Generator) -> Float[Tensor, "n k 4 4"]:
    """Straight pen strokes through the middle of 4 x 4 pixels; the angle is random, so the placing's angle serves."""
    distance = (torch.arange(4.0) - 1.5).abs() - _uniform((count, each, 1, 1), 0.1, 0.5, generator)
    return (1 - distance).clamp(0, 1).expand(count, each, 4, 4)


def _clear_centres(
    centres: Tensor, sides: Tensor, item_sides: Float[Tensor, "n k"], size: int, generator: Generator
) -> Float[Tensor, "n k 2"]:
    """Places (x, y) for the items: the first of 16 tries that leaves the digit's square free, else the farthest."""
    tries = size * torch.rand(*item_sides.shape, 16, 2, generator=generator)
    distance = (tries - centres[:, :, None]).abs().amax(-1)
    clearance = distance - (sides + item_sides)[..., None] / 2
    best = clearance.clamp(max=0).argmax(-1)
    return tries.gather(2, best[..., None, None].expand(*best.shape, 1, 2)).squeeze(2)
