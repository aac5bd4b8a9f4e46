"""The published training runs, one function each; and `distill`, which needs no labels.

Numbers are the papers' and the authors' scripts'; docs/recipes/ says where they differ. "short" forms are for small
machines: 1 to 3 epochs, small batches, light augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from ..methods import Method, ToFe
from .losses import Cut


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the loss (`vitrim.training.losses`); a part of weight 0 is not computed.
    `token_labels`: LV-ViT's patches learn the labels that the dense model's auxiliary head gives them."""

    classification: float = 1.0  # cross entropy with the labels
    logit_kl: float = 0.0  # KL(teacher || student) of the classes (IdleViT Eq. 13)
    features: float = 0.0  # squared difference to the teacher's final features, l2-normalised (IdleViT Eq. 14)
    token_mse: float = 0.0  # squared difference to the teacher's tokens, of those kept (DynamicViT)
    cut: float = 0.0  # IdleViT's token cut (Eq. 9 to 11)
    approximation: float = 0.0  # squared difference of ToFe's recovered tokens to the teacher's
    budget: float = 0.0  # squared distance of ToFe's MACs from the budget, as shares of the dense cost (Eq. 14)
    ratio: float = 0.0  # squared distance of the shares kept from those planned (DynamicViT)
    token_labels: float = 0.0


@dataclass(frozen=True)
class Augmentation:
    """What is done to training photographs; names and meanings are timm's. `repeated`: copies of each image a batch."""

    scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    repeated: int = 1


LIGHT = Augmentation(scale=(0.5, 1.0), rand_augment=None, color_jitter=0.2, erasing=0.0, mixup=0.0, cutmix=0.0)


@dataclass(frozen=True)
class Recipe:
    """One training run. Learning rates are peaks, already scaled to `batch_size` (the global batch).

    method:          the method it was published for; None: any
    backbone_scale:  the backbone's learning rate is the peak times this
    frozen_epochs:   the backbone does not learn for so many epochs
    keep_start, keep_epochs: keep rate 1 for so many epochs, then a cosine down over so many (EViT from scratch)
    ema:             decay of the running mean of the weights, 0: none; `judge_ema`: it is what is evaluated and saved
    labels:          whether photographs need labels
    cut_part:        which half of IdleViT's cut loss (Table 4)
    cut_map:         its map: the mean of the heads' "maps", or the softmax of their mean "logits" (the authors' code)
    cut_row_mean:    its rows of S divide by their number, not by K
    budget_of_mean:  ToFe's budget loss squares the batch's mean distance, not each image's
    frozen:          parameters of the backbone that never learn, by their names or the names' beginnings

    Example:
        >>> recipe = get_recipe("tofe")
        >>> recipe.epochs, recipe.batch_size, recipe.frozen_epochs, recipe.teaches
        (30, 1024, 5, True)
    """

    name: str
    method: str | None
    epochs: int
    batch_size: int
    lr: float
    min_lr: float
    warmup_epochs: int = 0
    weight_decay: float = 0.05
    clip_grad: float = 0.0
    layer_decay: float = 1.0
    drop_path: float = 0.0
    backbone_scale: float = 1.0
    frozen_epochs: int = 0
    keep_start: int = 0
    keep_epochs: int = 0
    ema: float = 0.0
    judge_ema: bool = False
    labels: bool = True
    cut_part: Cut = "both"
    cut_map: Literal["maps", "logits"] = "maps"
    cut_row_mean: bool = False
    budget_of_mean: bool = False
    frozen: tuple[str, ...] = ()
    weights: Weights = field(default_factory=Weights)
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def teaches(self) -> bool:
        """Whether a dense teacher is needed."""
        w = self.weights
        return bool(w.logit_kl or w.features or w.token_mse or w.approximation or w.token_labels)

    @property
    def records(self) -> Literal["maps", "logits", "masks"]:
        """What the student's forward is to leave for these losses (`losses=`)."""
        return self.cut_map if self.weights.cut else "masks"


def evit_finetune() -> Recipe:
    """EViT, fine-tuned for 30 epochs from a pretrained model (its section 4, Table 7; the authors' script): fixed keep
    rate from the start, learning rate 2e-5 x batch / 512, no drop path."""
    return Recipe(
        "evit_finetune", "evit", 30, 2048, lr=8e-5, min_lr=2e-6, weight_decay=1e-6, ema=0.99996,
        augmentation=Augmentation(repeated=3),
    )  # fmt: skip


def evit_scratch() -> Recipe:
    """EViT from scratch or from an oracle, 300 epochs (its Tables 2, 4, 6): keep rate 1 for 10 epochs, then a cosine
    over 100; learning rate 5e-4 x batch / 512."""
    return Recipe(
        "evit_scratch", "evit", 300, 2048, lr=2e-3, min_lr=1e-5, warmup_epochs=5, drop_path=0.1, keep_start=10,
        keep_epochs=100, augmentation=Augmentation(repeated=3),
    )  # fmt: skip


def bat_scratch() -> Recipe:
    """BAT from scratch, 300 epochs (its section 4): peak 2e-3, keep rate a cosine from 1 over 100 epochs."""
    return Recipe(
        "bat_scratch", "bat", 300, 2048, lr=2e-3, min_lr=1e-5, warmup_epochs=5, drop_path=0.1, keep_epochs=100
    )


def idlevit() -> Recipe:
    """IdleViT, 30 epochs (its section 4.1, Eq. 12): base 2e-5 to 2e-6, no warm-up; logit KL 5, features 500, cut 20."""
    return Recipe(
        "idlevit", "idlevit", 30, 1024, lr=4e-5, min_lr=2e-6,
        weights=Weights(logit_kl=5.0, features=500.0, cut=20.0),
    )  # fmt: skip


def tofe() -> Recipe:
    """ToFe, 30 epochs (its section VI): 1e-4 to 2e-6, backbone frozen for 5; approximation 2, budget 5 (Eq. 15)."""
    return Recipe(
        "tofe", "tofe", 30, 1024, lr=1e-4, min_lr=2e-6, frozen_epochs=5,
        weights=Weights(approximation=2.0, budget=5.0),
    )  # fmt: skip


def dynamicvit() -> Recipe:
    """DynamicViT, 30 epochs: 1e-3 for the predictors, a hundredth of it for the backbone, frozen for 5; ratio 2,
    KL 0.5, token MSE 0.5; the running mean of the weights is what counts."""
    return Recipe(
        "dynamicvit", "dynamicvit", 30, 1024, lr=1e-3, min_lr=1e-6, warmup_epochs=5, backbone_scale=0.01,
        frozen_epochs=5, ema=0.9999, judge_ema=True, weights=Weights(ratio=2.0, logit_kl=0.5, token_mse=0.5),
    )  # fmt: skip


def distill() -> Recipe:
    """No labels at all: KL and feature losses to the dense teacher, on photographs of the user's own, for any method.

    For when the model's behaviour over all its classes must be kept. Our own recipe: no paper prints it. Methods that
    cannot be trained without a loss of their own (ToFe's budget, DynamicViT's ratio) get it besides.
    """
    return Recipe(
        "distill", None, 10, 256, lr=5e-5, min_lr=1e-6, weight_decay=0.05, clip_grad=1.0, labels=False,
        budget_of_mean=True,
        weights=Weights(classification=0.0, logit_kl=1.0, features=100.0),
        augmentation=replace(LIGHT, scale=(0.35, 1.0), smoothing=0.0),
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Recipe]] = {
    make.__name__: make for make in (distill, evit_finetune, evit_scratch, bat_scratch, idlevit, tofe, dynamicvit)
}


def short(recipe: Recipe, epochs: int = 1) -> Recipe:
    """The recipe's form for a small machine: `epochs` (1 to 3), batches of 32, light augmentation, no warm-up.

    Learned parts start from random weights and learn for some hundred steps only: their peak is 1e-3, the backbone's
    5e-5. Where a budget is learned it weighs as in `distill`: so few steps would end far above it otherwise.
    """
    smoothing = recipe.augmentation.smoothing if recipe.labels else 0.0
    held = {"budget": ToFe().losses["budget"]} if recipe.weights.budget else {}
    return replace(
        recipe,
        epochs=epochs,
        batch_size=32,
        lr=1e-3,
        min_lr=2e-5,
        backbone_scale=0.05,
        warmup_epochs=0,
        frozen_epochs=0,
        keep_start=0,
        keep_epochs=0,
        clip_grad=1.0,
        drop_path=0.0,
        ema=0.0,
        judge_ema=False,
        budget_of_mean=True,
        weights=replace(recipe.weights, **held),
        augmentation=replace(LIGHT, smoothing=smoothing),
    )


def for_methods(recipe: Recipe, methods: Sequence[Method]) -> Recipe:
    """A recipe for any method, with the losses that these methods need besides (`Method.losses`); others stay as they
    are. A recipe with a ratio loss holds the places to fixed shares, and needs no budget (ToFe, Table V)."""
    needed = {} if recipe.method else {key: weight for m in methods for key, weight in m.losses.items() if weight}
    held = ("budget",) if recipe.weights.ratio else ()
    missing = {key: value for key, value in needed.items() if not getattr(recipe.weights, key) and key not in held}
    return replace(recipe, weights=replace(recipe.weights, **missing))


def get_recipe(name: str, *, small: bool = False) -> Recipe:
    """The recipe of that name.

    small: in its form for a small machine (`short`)

    Raises ValueError, with the names there are, for another one.

    Example:
        >>> get_recipe("evit")
        Traceback (most recent call last):
        ValueError: recipe 'evit' is not known: choose one of distill, evit_finetune, evit_scratch, bat_scratch, ...
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is not known: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    return short(recipe) if small else recipe


def override(recipe: Recipe, **changes) -> Recipe:
    """The recipe with some fields changed; fields of the weights and the augmentation by their own names.

    Raises ValueError for a field that no recipe has.
    """
    direct = {f.name for f in fields(Recipe)} - {"weights", "augmentation", "name", "method"}
    parts = {"weights": {f.name for f in fields(Weights)}, "augmentation": {f.name for f in fields(Augmentation)}}
    unknown = [key for key in changes if key not in direct.union(*parts.values())]
    if unknown:
        raise ValueError(f"a recipe has no field {', '.join(unknown)}")
    for part, names in parts.items():
        chosen = {key: value for key, value in changes.items() if key in names}
        recipe = replace(recipe, **{part: replace(getattr(recipe, part), **chosen)}) if chosen else recipe
    return replace(recipe, **{key: value for key, value in changes.items() if key in direct})
