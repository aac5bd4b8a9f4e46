"""All diagnostics of several models in one pass over a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...common.kinds_given import check_several, one_or_several
from ...common.progress import hidden
from ...common.progress import progress as show_progress
from ...core.tokens import Tokens
from ...data import Unreadable, data_config
from ...evaluate import EvaluationResult, without_classifier
from ...evaluate.judges import ClassifierJudge, FeatureJudge
from ...evaluate.timing import evaluation_mode
from ...runtime.model import ReducedViT
from ...runtime.profile import profile
from ..fates import follow
from ..looking import as_pixels, as_reduced, dense_below, setting_of
from .answers import ByClass, ClassAgreement, Differing, SurestDifferences
from .attention import InattentiveInBlock, InattentiveTokens, SortedAttention, SortedAttentions
from .base import Diagnostic, Places, Run, stage_blocks
from .likeness import Diversity, Similarity
from .naming import ImageNames, class_names
from .reselection import Reselection, Reselections, ReusedInStage, ReusedTokens
from .usage import TokensUsed, UsedInStage

DENSE = "dense"
DIAGNOSTICS: tuple[type[Diagnostic], ...] = (
    Reselections,
    ReusedTokens,
    TokensUsed,
    Similarity,
    Diversity,
    SortedAttentions,
    InattentiveTokens,
)
RAGGED = "its images come to this block with numbers of tokens of their own"


@dataclass(frozen=True)
class Findings:
    """What was found of one model. What has no meaning for it is None, and `left_out` says why.

    methods:    their names; empty for the dense model
    share:      its cost as a share of the dense model's
    agreement:  how it does beside the dense model: agreement, and top-1 with labels, or the cosine of features
    reselection, reuse, usage, similarity, diversity, sorted_attention, inattentive: see their classes
    left_out:   by the name of the diagnostic, the reason
    """

    methods: str
    share: float
    agreement: EvaluationResult
    reselection: Reselection | None = None
    reuse: tuple[ReusedInStage, ...] | None = None
    usage: tuple[UsedInStage, ...] | None = None
    similarity: tuple[float, ...] | None = None
    diversity: dict[int, float] | None = None
    sorted_attention: SortedAttention | None = None
    inattentive: tuple[InattentiveInBlock, ...] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """What `vitrim.view.diagnose` has found.

    images:    how many were looked at
    skipped:   those that could not be read
    labelled:  whether they had labels
    models:    by name, "dense" first
    classes:   agreement by class, the least first; empty without a classifier
    differing: the photographs on which models differ from the dense one, the surest first; at most as many as asked for
    found:     how many there are

    Example: of a model that is not reduced at all.
        >>> batches = [(images, None)]  # any iterable of images and class indices, or of images alone
        >>> found = vitrim.view.diagnose(vitrim.reduce(model, "topk", keep=1.0), batches)
        >>> found.images, found.found, found.models["TopK keep=1"].agreement.agreement
        (2, 0, 100.0)
    """

    images: int
    skipped: tuple[Unreadable, ...]
    labelled: bool
    models: dict[str, Findings]
    classes: tuple[ClassAgreement, ...]
    differing: tuple[Differing, ...]
    found: int


def diagnose(
    models: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module],
    batches: Iterable,
    *,
    differing: int = 24,
    progress: bool = False,
) -> Diagnosis:
    """What the papers measure, of reduced models and the dense one below them, in one pass over images.

    models:    from `vitrim.reduce`, on any device: one, several, or several by name; all of one dense model
    batches:   a loader of `vitrim.data.open_loader`, or any batches of images [b, 3, h, w], or of (images, class
               indices [b] or None). No labels are needed; with them there is top-1 by class
    differing: how many of the photographs to keep on which models differ
    progress:  show a bar on standard error

    Memory does not grow with the number of images. Raises ValueError for models that are not reduced or not of one
    dense model, images of several sizes, labels for some batches alone, and where there is no image.

    Example:
        >>> fast = [vitrim.reduce(model, "evit", keep=0.5), vitrim.reduce(model, "idlevit", keep=0.5)]
        >>> loader = vitrim.data.open_loader(vitrim.data.open_dataset("photos", model), batch_size=4, workers=0)
        >>> found = vitrim.view.diagnose(fast, loader)
        >>> found.images, list(found.models)
        (8, ['dense', 'EViT keep=0.5', 'IdleViT keep=0.5'])
        >>> found.models["EViT keep=0.5"].left_out["reselection"]
        'no token that it leaves out comes back'
        >>> len(found.models["IdleViT keep=0.5"].similarity), [row.name for row in found.classes][:1] != []
        (4, True)
    """
    reduced = _by_name(models)
    check_several("batches", batches, "give batches of images, such as those of vitrim.data.open_loader")
    looking = _Looking(reduced, batches, differing)
    everyone: dict[str, nn.Module] = {name: each.model for name, each in looking.examined.items()}
    shown = show_progress("looking at the images", _length(batches))
    with evaluation_mode(everyone), torch.inference_mode(), hidden(not progress), shown as report:
        for number, batch in enumerate(batches):
            looking.take(batch)
            report(number + 1)
    return looking.result()


class _Examined:
    """One model with its diagnostics, which watch it."""

    def __init__(self, model: ReducedViT, places: Places):
        self.model, self.device = model, next(model.parameters()).device
        self.left_out = {each.name: reason for each in DIAGNOSTICS if (reason := each.unfit(model))}
        self.diagnostics = [each(model, places) for each in DIAGNOSTICS if each.name not in self.left_out]

    def before(self, block: int, tokens: Tokens) -> None:
        for each in self.diagnostics:
            each.before(block, tokens)

    def after(self, block: int, tokens: Tokens) -> None:
        for each in self.diagnostics:
            each.after(block, tokens)

    def look(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """The output for a batch."""
        output, trace = self.model.watched(images.to(self.device), self)
        run = Run(trace, follow(self.model, trace, (images.shape[-2], images.shape[-1])))
        for each in self.diagnostics:
            each.finish(run)
        return output.float().flatten(1)

    def findings(self, size: tuple[int, int], judged: EvaluationResult) -> Findings:
        answers = {each.name: each.result() for each in self.diagnostics}
        reasons = {**self.left_out, **{name: RAGGED for name, answer in answers.items() if answer is None}}
        methods = "+".join(method.name for method in self.model.methods)
        return Findings(methods, profile(self.model, size).share, judged, **answers, left_out=reasons)


class _Looking:
    """The pass over the images."""

    def __init__(self, reduced: Mapping[str, ReducedViT], batches: Iterable, differing: int):
        dense = _dense_of(reduced)
        self.examined = {DENSE: _Examined(dense, _places(list(reduced.values())))}
        self.examined |= {name: _Examined(model, _places([model])) for name, model in reduced.items()}
        self.config, self.names = data_config(dense), ImageNames(batches)
        self.classes, self.class_names = dense.num_classes, class_names(batches, dense)
        self.classifies = not without_classifier(dense)
        self.judges = {name: self._judge(name) for name in self.examined}
        self.by_class = ByClass(list(self.examined), self.classes if self.classifies else 0)
        self.differences = SurestDifferences(differing, self.classifies, self.class_names)
        self.skipped: list[Unreadable] = []
        self.size: tuple[int, int] | None = None
        self.labelled: bool | None = None

    def _judge(self, name: str) -> ClassifierJudge | FeatureJudge:
        if self.classifies:
            return ClassifierJudge(name, self.classes, torch.device("cpu"))
        return FeatureJudge(name, neighbours=1)

    def take(self, batch: Any) -> None:
        """Look at a batch."""
        images, labels, skipped = _parts(batch)
        self.skipped += skipped
        names = self.names.take(len(images), skipped)
        if not len(images):
            return
        self._check(images, labels)
        outputs = {name: each.look(images).cpu() for name, each in self.examined.items()}
        for name, judge in self.judges.items():
            beside = None if name == DENSE else outputs[DENSE]
            judge.update(outputs[name], beside, labels if self.classifies else None, len(images))
        if self.classifies:
            self.by_class.update(outputs, labels)
        self.differences.update(outputs, labels, names, lambda i: as_pixels(images[i : i + 1], self.config)[0])

    def _check(self, images: Tensor, labels: Tensor | None) -> None:
        size, labelled = (images.shape[-2], images.shape[-1]), labels is not None
        if self.size not in (None, size):
            raise ValueError(f"images of {self.size} and of {size} pixels: give batches of one size")
        if self.labelled not in (None, labelled):
            raise ValueError("some batches have labels and some have none: give labels for all images, or for none")
        self.size, self.labelled = size, labelled

    def result(self) -> Diagnosis:
        if self.size is None:
            first = f": {self.skipped[0].name}: {self.skipped[0].reason}" if self.skipped else ""
            raise ValueError(f"there is no image that can be read{first}")
        skipped = tuple(self.skipped)
        judged = {name: judge.result(skipped) for name, judge in self.judges.items()}
        models = {name: each.findings(self.size, judged[name]) for name, each in self.examined.items()}
        classes = self.by_class.result(self.class_names) if self.classifies else ()
        kept = self.differences
        return Diagnosis(judged[DENSE].images, skipped, bool(self.labelled), models, classes, kept.result(), kept.found)


def _by_name(models: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]) -> dict[str, ReducedViT]:
    """Those that are not named are called by their settings, a second of a kind by its number too."""
    if isinstance(models, Mapping):
        named = {str(name): as_reduced(model) for name, model in models.items()}
    else:
        named = {}
        for model in one_or_several(models):
            fast = as_reduced(model)
            name, times = setting_of(fast), sum(known.partition(" (")[0] == setting_of(fast) for known in named)
            named[f"{name} ({times + 1})" if times else name] = fast
    if not named:
        raise ValueError("nothing to diagnose: give at least one model of vitrim.reduce")
    if DENSE in named:
        raise ValueError(f"{DENSE!r} is what the dense model is called: give another name")
    return named


def _dense_of(reduced: Mapping[str, ReducedViT]) -> ReducedViT:
    """The dense model below all of them. Those of transformers are copies that share its weights."""
    first, *others = reduced.values()
    if any(_weights(other) != _weights(first) for other in others):
        raise ValueError("the models are reductions of several dense ones: give those of one, or call it for each")
    return dense_below(first)


def _weights(model: ReducedViT) -> set[int]:
    """Which the dense model's are, without what the methods have learned."""
    return {id(weight) for weight in model.backbone.parameters()} - {id(own) for own in model.methods.parameters()}


def _places(models: Sequence[ReducedViT]) -> Places:
    """Where to look at a model; at the dense one for the sake of all others."""
    depth = models[0].body.depth
    last = sorted({blocks[-1] for model in models if (blocks := stage_blocks(model))})
    return Places(early=depth // 4, late=3 * depth // 4, last=tuple(last))


def _parts(batch: Any) -> tuple[Tensor, Tensor | None, Sequence[Unreadable]]:
    """Images, labels, and what could not be read."""
    if isinstance(batch, Tensor):
        return batch, None, ()
    images, *rest = batch
    return images, rest[0] if rest else None, rest[1] if len(rest) > 1 else ()


def _length(batches: Iterable) -> int | None:
    """How many batches there are, where that is known."""
    known: Any = batches
    try:
        return len(known)
    except TypeError:  # also of a loader over a stream
        return None
