"""Pictures of what becomes of patches, drawn over an image: as an image of its own, or as a layer to lay over it."""

from __future__ import annotations

import base64
import colorsys
import io

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from .fates import shares_token

# A mid-grey blue for patches without a token: it stands off from ink, from paper and from both page backgrounds, and
# from the colours of groups, which are stronger. The ring is yellow with a dark rim, seen on any photograph.
DROPPED_COLOUR, DROPPED_SHARE = np.array([122, 138, 160]), 0.8
MERGED_SHARE = 0.12  # a hint: the border tells groups apart
RING_COLOUR, RIM_COLOUR = (255, 225, 40), (20, 20, 20)
# From none to all of the blocks: the anchors of a scale whose lightness rises evenly, so that it can be read in grey.
HEAT_SCALE = np.array([[13, 8, 60], [84, 15, 109], [158, 42, 99], [217, 79, 61], [249, 142, 9], [252, 240, 140]])
HEAT_SHARE = 0.75
SMALLEST_SIDE = 256  # pixels: smaller images are drawn larger, so that borders are thin beside a patch
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
Layer = UInt8[np.ndarray, "H W 4"]


def draw_groups(
    image: UInt8[np.ndarray, "h w *channels"],
    groups: Int[np.ndarray, "rows columns"],
    ringed: Bool[np.ndarray, "rows columns"] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with what became of its patches: as it is where a patch has a token of its own; faded where it has
    none; where patches share a token, their mean colour with a tint, and a border around those of each token.

    groups: patches with one number share a token, whose colour goes by that number; -1: without a token
    ringed: patches that get a ring

    Raises ValueError where the image's height and width are not whole multiples of the rows and columns.

    Example:
        >>> draw_groups(np.zeros((8, 8), dtype=np.uint8), np.array([[0, -1], [1, 1]])).shape
        (256, 256, 3)
    """
    return laid_over(enlarged(image), group_layer(image, groups, ringed))


def group_layer(
    image: UInt8[np.ndarray, "h w *channels"],
    groups: Int[np.ndarray, "rows columns"],
    ringed: Bool[np.ndarray, "rows columns"] | None = None,
) -> Layer:
    """What `draw_groups` lays over the enlarged image: colours, and how much they cover."""
    rgb = enlarged(image)
    height, width = _patch_size(image, rgb, groups.shape)
    shared = shares_token(groups)
    colours = group_colours(int(groups.max()) + 1 if shared.any() else 1)[np.where(shared, groups, 0)]
    cells = np.zeros((*groups.shape, 4), dtype=np.uint8)
    cells[groups < 0] = (*DROPPED_COLOUR, round(255 * DROPPED_SHARE))
    filled = (1 - MERGED_SHARE) * _means(rgb, groups) + MERGED_SHARE * colours
    cells[shared] = np.concatenate([filled.round(), np.full((*groups.shape, 1), 255)], axis=-1)[shared]
    layer = _spread(cells, height, width)
    if shared.any():
        numbers = _spread(groups.astype(np.int32), height, width)
        borders = _borders(numbers, _spread(shared, height, width), max(1, min(height, width) // 16))
        layer[borders, :3] = _spread(colours.astype(np.uint8), height, width)[borders]
    if ringed is not None and ringed.any():
        _draw_rings(layer, ringed, height, width)
    return layer


def block_layers(
    image: UInt8[np.ndarray, "h w *channels"],
    groups: Int[np.ndarray, "blocks rows columns"],
    ringed: Bool[np.ndarray, "blocks rows columns"],
) -> list[str]:
    """The layer of every block as a data URI. Where nothing changes between two blocks, it is drawn once.

    Example:
        >>> groups = np.array([[[0]], [[0]], [[-1]]])
        >>> layers = block_layers(np.zeros((8, 8), dtype=np.uint8), groups, groups > 0)
        >>> layers[0] is layers[1], layers[1] == layers[2]
        (True, False)
    """
    drawn: dict[bytes, str] = {}
    for found, rings in zip(groups, ringed, strict=True):
        key = found.tobytes() + rings.tobytes()
        if key not in drawn:
            drawn[key] = image_uri(group_layer(image, found, rings))
    return [drawn[found.tobytes() + rings.tobytes()] for found, rings in zip(groups, ringed, strict=True)]


def heat_layer(
    image: UInt8[np.ndarray, "h w *channels"], work: Float[np.ndarray, "rows columns"], blocks: int
) -> Layer:
    """How many of so many blocks each patch took part in, as colours to be laid over the enlarged image.

    Example:
        >>> heat_layer(np.zeros((8, 8), dtype=np.uint8), np.array([[0.0, 4.0]]), 4)[0, [0, -1]].tolist()
        [[13, 8, 60, 191], [252, 240, 140, 191]]
    """
    rgb = enlarged(image)
    place = np.clip(work / blocks, 0, 1) * (len(HEAT_SCALE) - 1)
    colours = [np.interp(place, range(len(HEAT_SCALE)), HEAT_SCALE[:, channel]) for channel in range(3)]
    cells = np.stack([*colours, np.full_like(place, 255 * HEAT_SHARE)], axis=-1).round().astype(np.uint8)
    return _spread(cells, *_patch_size(image, rgb, work.shape))


def laid_over(rgb: UInt8[np.ndarray, "H W 3"], layer: Layer) -> UInt8[np.ndarray, "H W 3"]:
    """The image as it is seen below a layer."""
    share = layer[..., 3:] / 255
    return ((1 - share) * rgb + share * layer[..., :3]).round().astype(np.uint8)


def group_colours(count: int) -> Int[np.ndarray, "count 3"]:
    """Strong colours for groups by number: neighbours are far apart on the wheel.

    Example:
        >>> group_colours(2).tolist()
        [[230, 159, 0], [92, 0, 230]]
    """
    golden = (5**0.5 - 1) / 2
    hues = (0.1152 + golden * np.arange(count)) % 1
    return np.array([[round(255 * part) for part in colorsys.hsv_to_rgb(hue, 1.0, 0.902)] for hue in hues])


def enlarged(image: UInt8[np.ndarray, "h w *channels"]) -> UInt8[np.ndarray, "H W 3"]:
    """The image in colours, a whole number of times as large, so that its shorter side has 256 pixels or more.

    Raises ValueError for another type or number of channels.

    Example:
        >>> enlarged(np.zeros((64, 64), dtype=np.uint8)).shape
        (256, 256, 3)
    """
    grey = image if image.ndim == 3 else image[..., None]
    if image.dtype != np.uint8 or grey.shape[2] not in (1, 3):
        raise ValueError(f"an image of {image.dtype} and shape {image.shape}; give uint8 [h, w] or [h, w, 3]")
    times = max(1, -(-SMALLEST_SIDE // min(grey.shape[:2])))
    return np.repeat(np.repeat(np.broadcast_to(grey, (*grey.shape[:2], 3)), times, 0), times, 1)


def image_uri(pixels: UInt8[np.ndarray, "h w channels"], colours: bool = False) -> str:
    """The image or layer as a data URI: a PNG, or a JPEG for photographs in colours, which would be large otherwise.

    Example:
        >>> image_uri(np.zeros((2, 2, 3), dtype=np.uint8))[:22]
        'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    kind = "jpeg" if colours else "png"
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, **({"quality": 88} if colours else {}))
    return _data_uri(f"image/{kind}", buffer.getvalue())


def plot_uri(plot: bytes | str) -> str:
    """The bytes of a PNG, or the text (or bytes) of an SVG, as a data URI. Raises ValueError for anything else.

    Example:
        >>> plot_uri("<svg/>")
        'data:image/svg+xml;base64,PHN2Zy8+'
    """
    data = plot.encode() if isinstance(plot, str) else plot
    if data.startswith(PNG_SIGNATURE):
        return _data_uri("image/png", data)
    if b"<svg" in data:
        return _data_uri("image/svg+xml", data)
    raise ValueError("the picture is neither PNG nor SVG; give the bytes of a PNG or the text of an SVG")


def _patch_size(image: np.ndarray, rgb: np.ndarray, grid: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a patch in pixels of the enlarged image."""
    rows, columns = grid
    if image.shape[0] % rows or image.shape[1] % columns:
        raise ValueError(f"{rows} x {columns} patches do not divide an image of {image.shape[0]} x {image.shape[1]}")
    return rgb.shape[0] // rows, rgb.shape[1] // columns


def _spread(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """One value for each patch becomes one for each of its pixels."""
    return np.repeat(np.repeat(np.asarray(values), height, 0), width, 1)


def _means(rgb: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For every patch the mean colour of those that share its token."""
    rows, columns = groups.shape
    patches = rgb.reshape(rows, len(rgb) // rows, columns, -1, 3).mean(axis=(1, 3), dtype=np.float32)
    flat = groups.ravel() + 1  # what has no token is number 0
    times = np.maximum(np.bincount(flat), 1)
    channels = [np.bincount(flat, patches[..., c].ravel()) / times for c in range(3)]
    return np.stack([channel[flat].reshape(groups.shape) for channel in channels], axis=-1)


def _borders(numbers: np.ndarray, shared: np.ndarray, width: int) -> np.ndarray:
    """The pixels of shared tokens that lie within `width` of another token's, right of them or below."""
    found = np.zeros_like(shared)
    for axis in (0, 1):
        for shift in (*range(1, width + 1), *range(-width, 0)):
            other = np.roll(numbers, shift, axis)
            found |= shared & (other != numbers)
    return found


def _draw_rings(layer: np.ndarray, ringed: np.ndarray, height: int, width: int) -> None:
    """A ring in each of these patches, with a rim on both sides of it."""
    y, x = np.ogrid[:height, :width]
    radius = np.hypot((y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5)
    chosen = _spread(ringed, height, width)
    for colour, low, high in ((RIM_COLOUR, 0.26, 0.48), (RING_COLOUR, 0.32, 0.42)):
        ring = np.tile((low <= radius) & (radius <= high), ringed.shape)
        layer[chosen & ring] = (*colour, 255)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
