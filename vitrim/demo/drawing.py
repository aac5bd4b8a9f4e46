"""Pictures for the demo's page: what is left of an image, drawn into it, and images as text inside the HTML."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from .fates import shares_token

# A mid-grey blue for patches without a token, an amber for those that share one: both stand off from ink, from paper
# and from both page backgrounds, and from each other for colour-blind readers.
DROPPED_COLOUR, DROPPED_SHARE = np.array([122, 138, 160]), 0.8
MERGED_COLOUR, MERGED_SHARE = np.array([230, 159, 0]), 0.3
SMALLEST_SIDE = 256  # pixels: smaller images are drawn larger, so that borders are thin beside a patch
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def draw_groups(
    image: UInt8[np.ndarray, "h w *channels"], groups: Int[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with what became of its patches: as it is where a patch has a token of its own; faded where it has
    none; where patches share a token, their mean colour with a tint, and a border around those of each token.

    Raises ValueError where the image's height and width are not whole multiples of the rows and columns.

    Example:
        >>> draw_groups(np.zeros((8, 8), dtype=np.uint8), np.array([[0, -1], [1, 1]])).shape
        (256, 256, 3)
    """
    rgb = enlarged(image)
    rows, columns = np.asarray(groups).shape
    if image.shape[0] % rows or image.shape[1] % columns:
        raise ValueError(f"{rows} x {columns} patches do not divide an image of {image.shape[0]} x {image.shape[1]}")
    height, width = rgb.shape[0] // rows, rgb.shape[1] // columns
    shared, shown = _spread(shares_token(groups), height, width), rgb.astype(float)
    numbers = _spread(groups, height, width)
    shown = np.where((numbers < 0)[..., None], _mixed(shown, DROPPED_COLOUR, DROPPED_SHARE), shown)
    if shared.any():
        shown = np.where(shared[..., None], _mixed(_means(shown, numbers), MERGED_COLOUR, MERGED_SHARE), shown)
        shown[_borders(numbers, shared, max(1, min(height, width) // 16))] = MERGED_COLOUR
    return shown.round().astype(np.uint8)


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


def image_uri(rgb: UInt8[np.ndarray, "h w 3"], colours: bool) -> str:
    """The image as a data URI: a PNG, or a JPEG for photographs in colours, which would be large otherwise.

    Example:
        >>> image_uri(np.zeros((2, 2, 3), dtype=np.uint8), colours=False)[:22]
        'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    kind = "jpeg" if colours else "png"
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, kind, **({"quality": 88} if colours else {}))
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


def _spread(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """One value for each patch becomes one for each of its pixels."""
    return np.repeat(np.repeat(np.asarray(values), height, 0), width, 1)


def _mixed(shown: np.ndarray, colour: np.ndarray, share: float) -> np.ndarray:
    return (1 - share) * shown + share * colour


def _means(shown: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Every pixel gets the mean colour of the patches that share its token."""
    flat = numbers.ravel() + 1  # what has no token is number 0
    times = np.maximum(np.bincount(flat), 1)
    channels = [np.bincount(flat, shown[..., c].ravel()) / times for c in range(3)]
    return np.stack([channel[flat].reshape(numbers.shape) for channel in channels], axis=-1)


def _borders(numbers: np.ndarray, shared: np.ndarray, width: int) -> np.ndarray:
    """The pixels of shared tokens that lie within `width` of another token's, right of them or below."""
    found = np.zeros_like(shared)
    for axis in (0, 1):
        for shift in (*range(1, width + 1), *range(-width, 0)):
            other = np.roll(numbers, shift, axis)
            found |= shared & (other != numbers)
    return found


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
