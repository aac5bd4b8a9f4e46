"""What vitrim asks of the library that a model comes from: `Library`, one object for each library.

A family (`base.py`) knows how a model computes; a library knows how its models are named, built, described and filled
with weights. Nobody else asks timm, so another library is one more folder and one more object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ..common.extras import require
from .base import Backbone


@dataclass(frozen=True)
class Texts:
    """Sentences as a model of images and texts reads them. Logits are scale * (image . text) + bias, of features of
    length 1.

    features: [k, c], of length 1
    apart:    the model has learned whether an image goes with a text, each text by itself (SigLIP), and not which text
              it goes with (CLIP)
    """

    features: Float[Tensor, "k c"]
    scale: float
    bias: float
    apart: bool = False


class Library(ABC):
    """A library of models. Questions by name need no model; questions about a model take one of this library's.

    A model that is asked about is the dense one: a reduced model's `backbone`, without wrappers.

    Example:
        >>> library = vitrim.backbones.library_of(model)
        >>> library.name, library.has_model("deit_tiny_patch16_224"), library.has_model("deit_tiny")
        ('timm', True, False)
    """

    name: ClassVar[str]  # as in messages and on PyPI
    factory: ClassVar[str]  # the call that builds a model by name, for messages
    listing: ClassVar[str]  # how to list the names, for messages
    has_list: ClassVar[bool] = True  # whether it has a list of names; else every name is a place where it looks
    extra: ClassVar[str | None] = None  # of vitrim, that brings it
    loggers: ClassVar[tuple[str, ...]] = ()  # that report every try while weights are fetched
    idle: ClassVar[tuple[type[nn.Module], ...]] = ()  # layers that pass their input on in eval mode, as Dropout does
    mlps: ClassVar[tuple[type[nn.Module], ...]] = ()  # MLPs that compute act(fc1(x)) first
    # Attributes of modules with which a model is recorded in another way, or on which no value in eval mode depends.
    incidental: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, families: Sequence[type[Backbone]]):
        self.families = tuple(families)  # that run this library's models

    def check_installed(self) -> None:
        """Raise ValueError, naming what to install, where the library is an extra and missing."""
        if self.extra is not None:
            require(self.extra, f"a model of {self.name}")

    @property
    def is_installed(self) -> bool:
        """Whether its models can be made here."""
        try:
            self.check_installed()
        except ValueError:
            return False
        return True

    @property
    def in_use(self) -> bool:
        """Whether it is imported: one that is an extra may not even be installed."""
        return True

    @property
    @abstractmethod
    def version(self) -> str:
        """The version that is installed, such as `1.0.31`."""

    # -- by name

    @abstractmethod
    def has_model(self, name: str) -> bool:
        """Whether the library's own list holds this name."""

    @abstractmethod
    def near_names(self, name: str) -> list[str]:
        """At most three names of the list that look like this one, the nearest first; empty where none does."""

    @abstractmethod
    def looks_up(self, name: str) -> bool:
        """Whether the name is for a place outside of the list, such as a hub; only `create` finds out if it exists."""

    @abstractmethod
    def has_weights(self, name: str) -> bool:
        """Whether pretrained weights are known for a name of the list."""

    @abstractmethod
    def published(self, name: str) -> dict[str, str]:
        """Where the pretrained weights of a name are published, as metadata of a model card: `base_model`, a repository
        of the Hugging Face hub, and their `license`; without what is not known."""

    @abstractmethod
    def create(self, name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        """The model of that name, in train mode, with random or pretrained weights. Raises what the library raises."""

    def example(self, name: str) -> nn.Module:
        """A model of a kind that `Backbone.kinds` of one of its families names, with random weights."""
        return self.create(name)

    @abstractmethod
    def family_of(self, name: str) -> list[str]:
        """Names of the list that differ from this one in the word for the size alone, such as `base`, in the order of
        the list; empty where there are none, or the name has no such word."""

    @property
    @abstractmethod
    def argument_names(self) -> frozenset[str]:
        """Arguments of the supported models' classes. What `create` takes beside them (weights to fetch, files to
        read, a device) is none of them."""

    # -- about a model: how it was made

    @abstractmethod
    def owns(self, model: nn.Module) -> bool:
        """Whether the model's class, or a class that it extends, is this library's or stands on it."""

    @abstractmethod
    def architecture(self, model: nn.Module) -> str | None:
        """The name by which `create` makes it; None where the model keeps no record of one."""

    @abstractmethod
    def recorded_arguments(self, model: nn.Module) -> dict[str, Any]:
        """The arguments of `argument_names` that it was made with, as given; without those that were None."""

    @abstractmethod
    def current_arguments(self, model: nn.Module) -> dict[str, Any]:
        """Arguments whose values may have changed since, as they are now: the classes, the pooling, LV-ViT's labels."""

    @abstractmethod
    def pruned_arguments(self, model: nn.Module) -> dict[str, Any]:
        """Arguments that make a model with the blocks that are left, and without a final norm where that is gone."""

    # -- about a model: what goes in and comes out

    @abstractmethod
    def classes(self, model: nn.Module) -> int:
        """How many classes the classifier gives, a later one too; 0 without a classifier."""

    @abstractmethod
    def classifier(self, model: nn.Module) -> nn.Module:
        """The layer that gives the logits, of several the first; `nn.Identity` without a classifier."""

    @abstractmethod
    def gives_features(self, model: nn.Module) -> bool:
        """Whether its outputs are features: no classifier, or the image tower of a CLIP model."""

    @abstractmethod
    def image_size(self, model: nn.Module) -> tuple[int, int] | None:
        """(height, width) in pixels of the images that it was made for; None where it does not say."""

    @abstractmethod
    def patch_size(self, model: nn.Module) -> tuple[int, int] | None:
        """(height, width) of a patch in pixels; None where it does not say."""

    @abstractmethod
    def set_size(self, model: nn.Module, image_size: tuple[int, int], patch_size: tuple[int, int]) -> None:
        """Let the model take images, and cut patches, of another (height, width) in pixels: positions and patch
        embedding are resampled into new parameters. Raises ValueError where the model cannot."""

    @abstractmethod
    def data_config(self, model: nn.Module) -> dict[str, Any]:
        """How images are prepared: `input_size` (channels, height, width), `mean`, `std` (one for each channel),
        `interpolation`, `crop_pct` (share of the side), `crop_mode`."""

    def guessed(self, model: nn.Module) -> str:
        """What of that is a guess, in a clause; empty where all is known."""
        return ""

    @abstractmethod
    def label_names(self, model: nn.Module) -> dict[str, str]:
        """The names of the classes by index, {"0": "cat"}; an index may have none, and a model no names at all."""

    @abstractmethod
    def record_data(self, model: nn.Module, data: dict[str, Any]) -> None:
        """Let the model carry these entries of `data_config`, and `label_names`, in the place of those that it has."""

    def for_images(self, model: nn.Module) -> nn.Module:
        """The model, wrapped or not, as a function from images to one tensor, with timm's attributes `num_classes` and
        `pretrained_cfg`. Raises ValueError where it gives no such tensor."""
        return model

    def read_texts(self, model: nn.Module, texts: Sequence[str]) -> Texts:
        """What the model's text tower makes of sentences. Raises ValueError where it has none, or its tokenizer is not
        there."""
        raise ValueError(f"models of {self.name} read no texts: give transformers' CLIPModel or SiglipModel")

    # -- about a model: training and weights

    @abstractmethod
    def set_drop_path(self, model: nn.Module, rate: float) -> None:
        """Stochastic depth that rises linearly to `rate` over the blocks, on models built without it too."""

    @abstractmethod
    def undecayed(self, model: nn.Module) -> set[str]:
        """Names of parameters without weight decay, beside biases and norms: positions, prefix tokens."""

    @abstractmethod
    def layer_groups(self, model: nn.Module, coarse: bool = False) -> dict[str, Any]:
        """Which parameters are of the stem and which of each block, as regular expressions over their names, for layer
        decay. coarse: the groups of whole stages, where the model has stages."""

    @abstractmethod
    def part_keys(self, model: nn.Module) -> dict[str, tuple[str, ...]]:
        """What the names of weights in a checkpoint begin with: of the `classifier`, and of the `first_conv`."""

    @abstractmethod
    def load_checkpoint(self, model: nn.Module, path: str | Path) -> tuple[str, ...]:
        """Load a state dict from a file, every key of it; returns what was changed on the way, in words.

        Raises ValueError, and leaves the model as it was, where file and model do not fit.
        """
