"""What a search has found, as a row of a table."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.plan_file import Plan


@dataclass(frozen=True)
class Row:
    """One method at one budget: the plan that was found, beside the method's own even plan of the same cost.

    distance: mean KL to the dense model's classes, or 1 - cosine of features, over the photographs of the search
    held_out_distance, held_out_agreement: the same, and percent of equal classes, over those that the search never saw;
        None: there are none, or there are no classes
    flat: these three figures of the even plan; None: the method has none for this budget
    evaluations: plans that were judged so far, on some photographs or all
    tokens: patch tokens after each block

    Example:
        >>> from vitrim.tune import tune
        >>> row = tune(model, torch.rand(16, 3, 128, 128), ["tome"], [0.7], trials=1)[0]
        >>> row.plan.names, len(row.tokens)
        ('tome', 4)
    """

    plan: Plan
    distance: float
    held_out_distance: float | None
    held_out_agreement: float | None
    flat: dict[str, float | None] | None
    evaluations: int
    tokens: tuple[int, ...]

    @property
    def latency(self) -> dict[str, float] | None:
        """Of a search for milliseconds what `timed` says of the plan."""
        return self.plan.figures.get("latency")
