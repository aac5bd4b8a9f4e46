"""Reduced models of transformers: of the same class, with the same call, configuration and keys as the dense one.

The layers run in vitrim's loop (`tower_layers.py`). Embeddings, norms, poolers, losses, output classes and language
models stay transformers' own (`forwards.py`). Every output but the pooled has one token for every patch.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ..backbones.transformers.towers import part_at
from . import forwards
from .model import REDUCED, ReducedViT
from .pretrained_checks import ADAPTED, check_whole
from .tower_layers import ReducedLayers

METHODS_KEY = "vitrim_methods"  # in front of the keys of learned parts, which are numbered in files


def numbered(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict in which learned parts of methods are numbered, in the order of their names: transformers renames
    parts of its models when it saves them, by patterns that a method's own names may match."""
    learned = sorted(key for key in state if key.startswith(f"{METHODS_KEY}."))
    numbers = {key: f"{METHODS_KEY}.{number}" for number, key in enumerate(learned)}
    return {numbers.get(key, key): value for key, value in state.items()}


def dense_part(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the learned parts of methods."""
    return {key: value for key, value in state.items() if not key.startswith(f"{METHODS_KEY}.")}


class ReducedPretrained:
    """What a reduced model of transformers has beside its class.

    reduced: the same model for images [b, 3, h, w] alone, as vitrim's commands take it
    """

    _reduces: type
    _own: ClassVar[tuple[tuple[str, tuple[Any, ...]], ...]]  # as for `become`
    # `runtime/__init__.py` puts these here: they make models again, so they need this class first.
    _in_config: ClassVar[Callable[[ReducedViT], dict[str, Any]]]
    _load: ClassVar[Callable[..., nn.Module]]
    _push: ClassVar[Callable[..., Any]]
    _card: ClassVar[Callable[..., str]]
    _put_card: ClassVar[Callable[..., Any]]

    def save_pretrained(
        self,
        save_directory: Any,
        *args: Any,
        state_dict: Any = None,
        measured: Any = None,
        license: str | None = None,
        base_model: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """As transformers' own; `config.json` also says what the reduction is. Raises ValueError for a model that would
        not come back whole. Of one that transformers has put an adapter in, it saves the adapter alone, as ever.

        measured, license, base_model: as for `ReducedViT.save_pretrained`; with any of them there is a model card
        """
        model: Any = super()
        told = {"license": license, "base_model": base_model}
        asked = measured is not None or any(told.values())
        card = type(self)._card(self, Path(save_directory), measured, **told) if asked else None
        self.config.vitrim = type(self)._in_config(self.reduced)  # ty: ignore[missing-attribute]
        state = self.state_dict() if state_dict is None else state_dict  # ty: ignore[missing-attribute]
        if state_dict is None and not getattr(self, ADAPTED, False):  # what is given may be a shard, or gathered
            check_whole(self, dense_part(state))
        saved = model.save_pretrained(save_directory, *args, state_dict=numbered(state), **kwargs)
        if card is not None:
            type(self)._put_card(Path(save_directory), card)
        return saved

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """As `ReducedViT.push_to_hub`: the folder with its model card, as one commit."""
        return type(self)._push(self, repo_id, **kwargs)

    @classmethod
    def from_pretrained(cls, place: Any, **kwargs: Any) -> nn.Module:
        """The reduced model that a folder, or a repository of the hub, holds; for the dense one ask transformers'
        class."""
        return cls._load(place, cls._reduces, **kwargs)

    @property
    def reduced(self) -> ReducedViT:
        return self.__dict__[REDUCED]

    @property
    def methods(self) -> Any:
        return self.reduced.methods

    def train(self, mode: bool = True):
        super().train(mode)  # ty: ignore[missing-attribute]
        self.reduced.methods.train(mode)
        self.reduced.training = mode
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Its class has the name of transformers' and cannot be found by it: it is made again."""
        return _unpickled, (type(self)._reduces, type(self)._own), self.__dict__

    def __repr__(self) -> str:
        return self.reduced.told() or f"reduced {type(self).__name__}"


def as_pretrained(reduced: ReducedViT) -> nn.Module:
    """The reduced model as one of transformers. `reduced.backbone` must be nobody else's: it becomes the result."""
    body: Any = reduced.body
    model, tower, dialect = body.model, body.tower, body.dialect
    path, _, name = dialect.layers.rpartition(".")
    holder = part_at(tower, path)
    whole = not body.entry.classifies or dialect.stem.packs
    setattr(holder, name, ReducedLayers(getattr(holder, name), reduced, whole))
    become(tower, reduced, forward=(forwards.of_tower, dialect.output))
    if body.reader is not None:
        reader = part_at(model, body.reader.holder)
        names = [name for name in ("get_image_features", "get_video_features") if hasattr(type(reader), name)]
        become(reader, reduced, **{name: (forwards.of_features, name) for name in names})
    elif model is not tower:
        become(model, reduced, forward=(forwards.of_model,))
    if REDUCED not in vars(model):
        become(model, reduced)
    if reduced.methods.state_dict():
        model.add_module(METHODS_KEY, reduced.methods)
    if hasattr(tower, "use_head"):
        tower.use_head = False  # its pooling gets the tokens that are left
    return model


def become(part: Any, reduced: ReducedViT, **own: tuple[Any, ...]) -> None:
    """Give a part of the model a class of the same name over transformers' own.

    own: its functions by name: what makes each of transformers' class, and what else that is given
    """
    part.__class__ = _class_over(type(part), tuple(own.items()))
    part.__dict__[REDUCED] = reduced


@functools.cache
def _class_over(cls: type, own: tuple[tuple[str, tuple[Any, ...]], ...]) -> type:
    about: dict[str, Any] = {
        "_reduces": cls,
        "_own": own,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    made = {name: make(cls, *given) for name, (make, *given) in own}
    return type(cls.__name__, (ReducedPretrained, cls), {**about, **made})


def _unpickled(cls: type, own: tuple[tuple[str, tuple[Any, ...]], ...]) -> Any:
    """A part of such a class, without its state."""
    made: Any = _class_over(cls, own)
    return made.__new__(made)


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of all modules that shares every parameter and buffer."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)
