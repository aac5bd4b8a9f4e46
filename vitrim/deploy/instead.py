"""What a user would do instead of reducing tokens: fewer pixels, a larger patch, or a smaller model of the family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..backbones import library_of
from ..common.on_meta import on_meta
from ..runtime.model import for_images
from ..runtime.profile import profile
from .optimize import sharing

RESOLUTION, PATCH, FAMILY = "lower resolution", "larger patch", "smaller model"
KINDS = (RESOLUTION, PATCH, FAMILY)
Size = tuple[int, int]


@dataclass(frozen=True)
class Candidate:
    """A dense model that could be made. macs: of one image; of another patch size an estimate, within a few percent.

    image_size, patch_size: (height, width) in pixels
    name: of the smaller model; empty: the same one
    """

    kind: str
    label: str
    macs: float
    image_size: Size
    patch_size: Size
    name: str = ""


class Resized(nn.Module):
    """A model for another image size behind the images of its origin: it resizes them, then runs.

    size: (height, width) in pixels

    Example:
        >>> half = Resized(vitrim.deploy.instead.resized(model, (64, 64), (16, 16)), (64, 64))
        >>> half(images).shape  # of 128 pixels
        torch.Size([2, 2])
    """

    def __init__(self, model: nn.Module, size: Size):
        super().__init__()
        self.model, self.size = for_images(model), size
        self.num_classes: Any = getattr(self.model, "num_classes", None)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(fitted(images, self.size))


def fitted(images: Tensor, size: Size) -> Tensor:
    """Images [b, c, height, width] at that (height, width), as they are where it is theirs."""
    if tuple(images.shape[-2:]) == size:
        return images
    return interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


def resized(model: nn.Module, image_size: Size, patch_size: Size) -> nn.Module:
    """A copy of a dense model for another image size and patch, (height, width) in pixels. It shares all parameters but
    the positions and, with another patch, the patch embedding, which are resampled.

    Raises ValueError for a model that cannot.

    Example:
        >>> small = resized(model, (64, 64), (16, 16))
        >>> small(torch.rand(1, 3, 64, 64)).shape, small.head.weight.data_ptr() == model.head.weight.data_ptr()
        (torch.Size([1, 2]), True)
    """
    copy = sharing(model).eval()
    library_of(copy).set_size(copy, image_size, patch_size)
    return copy


class Alternatives:
    """The candidates of a dense model by kind, and the models that have been made of them by label.

    missing: (kind, reason) of kinds that this model does not have
    """

    def __init__(self, dense: nn.Module):
        self.dense = dense
        self.dense_macs = profile(dense).macs
        self.made: dict[str, nn.Module] = {}
        self.missing: dict[str, str] = {}
        self.by_kind = {kind: self._cheaper(kind) for kind in KINDS}

    def nearest(self, shares: Iterable[float]) -> list[Candidate]:
        """Of each kind those whose MACs come nearest to these shares of the dense model's, none twice.

        Example:
            >>> [c.label for c in Alternatives(model).nearest([0.5])]
            ['dense at 96 px', 'dense, patch 20 at 120 px']
        """
        wanted = [share * self.dense_macs for share in shares]
        found = [min(of_kind, key=lambda c: abs(c.macs - macs)) for of_kind in self._present for macs in wanted]
        return list(dict.fromkeys(found))

    @property
    def _present(self) -> list[list[Candidate]]:
        return [candidates for candidates in self.by_kind.values() if candidates]

    def model(self, candidate: Candidate) -> nn.Module:
        """The candidate's model, in evaluation mode, on the dense one's device; made once. A smaller model has random
        weights, unless `put` has brought its own."""
        if candidate.label not in self.made:
            self.made[candidate.label] = self._make(candidate)
        return self.made[candidate.label]

    def put(self, name: str, model: nn.Module) -> None:
        """Take this model for the smaller one of that name."""
        self.made[name] = model.eval()

    def _make(self, candidate: Candidate) -> nn.Module:
        if not candidate.name:
            return resized(self.dense, candidate.image_size, candidate.patch_size)
        made = self.smaller(candidate.name, candidate.image_size)
        return made.eval().to(next(self.dense.parameters()).device)

    def smaller(self, name: str, image_size: Size) -> nn.Module:
        """The model of that name for as many classes and channels as the dense one, with random weights."""
        library: Any = library_of(self.dense)
        channels = library.data_config(self.dense)["input_size"][0]
        given = {"img_size": image_size, "num_classes": library.classes(self.dense), "in_chans": channels}
        return library.create(name, **given)

    def _cheaper(self, kind: str) -> list[Candidate]:
        """The candidates of a kind that cost less than the dense model; where there is none, why not."""
        ways = {RESOLUTION: self._resolutions, PATCH: self._patches, FAMILY: self._family}
        try:
            found = [candidate for candidate in ways[kind]() if candidate.macs < self.dense_macs]
            if found and kind != FAMILY:
                found = found if self._takes(found[0]) else []
        except ValueError as error:
            self.missing[kind] = str(error)
            return []
        if not found:
            self.missing[kind] = f"{library_of(self.dense).name} has none for it" if kind == FAMILY else "there is none"
        return found

    def _takes(self, candidate: Candidate) -> bool:
        """Whether the model can be made so. Raises ValueError where it cannot."""
        return self.model(candidate) is not None

    def _sizes(self) -> tuple[Size, Size]:
        library = library_of(self.dense)
        image, patch = library.image_size(self.dense), library.patch_size(self.dense)
        if image is None or patch is None:
            raise ValueError("the model does not say its image size and patch")
        return image, patch

    def _resolutions(self) -> list[Candidate]:
        """Every smaller image whose sides are multiples of the patch, in about the same proportion."""
        image, patch = self._sizes()
        rows, columns = (side // part for side, part in zip(image, patch, strict=True))
        most = max(rows, columns)
        grids = {(max(1, round(rows * k / most)), max(1, round(columns * k / most))) for k in range(2, most)}
        return [self._with(RESOLUTION, (h * patch[0], w * patch[1]), patch) for h, w in sorted(grids, reverse=True)]

    def _patches(self) -> list[Candidate]:
        """Even patches up to twice the side, on images of the nearest size that they fill."""
        image, patch = self._sizes()
        if patch[0] != patch[1]:
            return []
        found = []
        for side in range(patch[0] + 2, 2 * patch[0] + 1, 2):
            size = tuple(max(side, round(pixels / side) * side) for pixels in image)
            found.append(self._with(PATCH, (size[0], size[1]), (side, side)))
        return found

    def _with(self, kind: str, image: Size, patch: Size) -> Candidate:
        own_image, own_patch = self._sizes()
        like = [side // part * own for side, part, own in zip(image, patch, own_patch, strict=True)]
        pixels = f"{image[0]}" if image[0] == image[1] else f"{image[0]} x {image[1]}"
        at = f" at {pixels} px" if image != own_image else ""
        label = f"dense{at}" if kind == RESOLUTION else f"dense, patch {patch[0]}{at}"
        return Candidate(kind, label, profile(self.dense, (like[0], like[1])).macs, image, patch)

    def _family(self) -> list[Candidate]:
        """Models of the same name but for the size, that take the same images."""
        library, (image, patch) = library_of(self.dense), self._sizes()
        own = library.data_config(self.dense)
        found = []
        for name in library.family_of(library.architecture(self.dense) or ""):
            with on_meta():
                model = self.smaller(name, image)
            config = library.data_config(model)
            if all(config[key] == own[key] for key in ("input_size", "mean", "std")):
                found.append(Candidate(FAMILY, name, profile(model).macs, image, patch, name))
        return found


def nearest_in_time(
    candidates: Sequence[Candidate], seconds: Mapping[str, float], wanted: Mapping[str, float]
) -> dict[str, list[str]]:
    """Of each kind the candidate that takes about as long as a reduced model: labels of the reduced models that it
    stands beside, by its own label.

    seconds: of the candidates that have been timed, by label
    wanted:  of the reduced models, by label

    Example:
        >>> two = [Candidate(RESOLUTION, f"dense at {side} px", 1.0, (side, side), (16, 16)) for side in (160, 192)]
        >>> nearest_in_time(two, {"dense at 160 px": 0.5, "dense at 192 px": 0.7}, {"evit": 0.55, "tome": 0.8})
        {'dense at 160 px': ['evit'], 'dense at 192 px': ['tome']}
    """
    beside: dict[str, list[str]] = {}
    for label, time in wanted.items():
        for kind in KINDS:
            timed = [c.label for c in candidates if c.kind == kind and c.label in seconds]
            if timed:
                best = min(timed, key=lambda other: abs(seconds[other] - time))
                beside.setdefault(best, []).append(label)
    return beside
