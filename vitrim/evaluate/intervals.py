"""95 % intervals: of a share, and of a mean cosine."""

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a proportion (E. B. Wilson, JASA 22, 1927), as shares; z = 1.96 for 95 %.

    Raises ValueError where `successes` is not in 0 .. `trials` or there are no trials.

    Example:
        >>> low, high = vitrim.evaluate.wilson_interval(80, 100)
        >>> f"{low:.3f} to {high:.3f}"
        '0.711 to 0.867'
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials}: give 0 <= successes <= trials and at least one trial")
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


class MeanCosine:
    """The mean cosine of two models' outputs, and its 95 % interval by the normal approximation."""

    def __init__(self):
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def update(self, ours: Float[Tensor, "b c"], theirs: Float[Tensor, "b c"]) -> None:
        """Rows with what is no number in either are passed over."""
        both = ours.isfinite().all(dim=1) & theirs.isfinite().all(dim=1)
        # In float64, which not every device has: the spread is small beside the mean.
        cosines = cosine_similarity(ours[both].float(), theirs[both].float(), dim=1).cpu().double()
        self.count += len(cosines)
        self.total += float(cosines.sum())
        self.squares += float(cosines.square().sum())

    @property
    def mean(self) -> float | None:
        """None where there was nothing to compare."""
        return self.total / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """None for fewer than two images, which have no spread."""
        if self.count < 2:
            return None
        mean = self.total / self.count
        variance = max(0.0, self.squares - self.count * mean**2) / (self.count - 1)
        half = 1.959964 * math.sqrt(variance / self.count)
        return max(-1.0, mean - half), min(1.0, mean + half)
