"""Reduced models of transformers: of the same class, with the same call, configuration and keys as the dense one.

transformers runs its layers one by one, `for layer in self.layers: x = layer(x, ...)`. In a reduced model the list of
layers is `ReducedLayers`: it holds the same layers, and iterating over it gives one step that runs them all in vitrim's
loop. Embeddings, norms, poolers, losses and output classes stay transformers' own; where a head averages or attends to
patches, it is given the tokens that are left, by size. Every other output has one token for every patch.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor, nn

from ..backbones.transformers.outputs import classifier_output, collect, collectors
from ..core.recording import image_size
from ..core.tokens import Tokens
from .loop import Loop, Request
from .model import REDUCED, ReducedViT
from .pretrained_checks import ADAPTED, check_whole

METHODS_KEY = "vitrim_methods"  # in front of the keys of learned parts, which are numbered in files

REFUSED = {
    "output_attentions": "a reduced model forms no attention maps",
    "bool_masked_pos": "masked images are not for a model that leaves tokens out",
    "attention_mask": "the patches to leave out are chosen by the method",
    "head_mask": "it has no place in fused attention",
}


@dataclass
class Passage:
    """One call of a tower, handed through transformers' keyword arguments to the list of layers.

    images: [b, 3, height, width] what was given
    tokens: what is left after the last layer, before the last norm
    """

    images: Tensor
    tokens: Tokens | None = None


class ReducedLayers(nn.ModuleList):
    """The layers of a tower, run by vitrim's loop in one step.

    reduced: the model that they are of, with its methods
    whole:   whether whoever reads the result sees single tokens: then it has one for every patch
    """

    def __init__(self, layers: nn.ModuleList, reduced: ReducedViT, whole: bool):
        super().__init__()
        self._modules = layers._modules
        self.training = layers.training
        # Not a submodule: it holds the model that this list is a part of.
        self.__dict__["reduced"], self.whole = reduced, whole

    def __iter__(self) -> Iterator[Any]:
        return iter((self.run,))

    def run(
        self,
        hidden_states: Tensor,
        *mask: Any,
        passage: Passage | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **others: Any,
    ) -> Tensor:
        """All layers: [b, p+n0, c] to [b, p+n0, c], or to the tokens that are left."""
        reduced: ReducedViT = self.__dict__["reduced"]
        if passage is None:
            raise ValueError("call the model, not its encoder: the layers are run for images")
        body: Any = reduced.body
        body.look()
        grid = body.grid(image_size(passage.images))
        tokens = reduced.noted(body.tokens_of(hidden_states, grid, position_embeddings), passage.images, None)
        hooks = collectors(list(body.all_blocks()))
        watched = self.whole or bool(hooks)
        request = Request(remember=watched, prediction=not (watched or self.training))
        loop = Loop(body, reduced.turns, request, reduced.grad_checkpointing)
        tokens, _, taken = loop.run(tokens, range(body.depth) if hooks else ())
        collect(hooks, [hidden_states, *(tokens_then.full_grid() for tokens_then in taken)])
        passage.tokens = tokens
        if self.whole:
            return tokens.full_grid()
        return tokens.x if tokens.layout is None else tokens.layout.prefix_rows(tokens.x)


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
    # `runtime/__init__.py` puts these here: they make models again, so they need this class first.
    _in_config: ClassVar[Callable[[ReducedViT], dict[str, Any]]]
    _load: ClassVar[Callable[..., nn.Module]]

    def save_pretrained(self, save_directory: Any, *args: Any, state_dict: Any = None, **kwargs: Any) -> Any:
        """As transformers' own; `config.json` also says what the reduction is. Raises ValueError for a model that would
        not come back whole. Of one that transformers has put an adapter in, it saves the adapter alone, as ever."""
        model: Any = super()
        self.config.vitrim = type(self)._in_config(self.reduced)  # ty: ignore[missing-attribute]
        state = self.state_dict() if state_dict is None else state_dict  # ty: ignore[missing-attribute]
        if state_dict is None and not getattr(self, ADAPTED, False):  # what is given may be a shard, or gathered
            check_whole(self, dense_part(state))
        return model.save_pretrained(save_directory, *args, state_dict=numbered(state), **kwargs)

    @classmethod
    def from_pretrained(cls, folder: Any, **kwargs: Any) -> nn.Module:
        """The reduced model that a folder holds; for the dense one ask transformers' class."""
        return cls._load(folder, cls._reduces, **kwargs)

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

    def __repr__(self) -> str:
        return self.reduced.told() or f"reduced {type(self).__name__}"


def as_pretrained(reduced: ReducedViT) -> nn.Module:
    """The reduced model as one of transformers. `reduced.backbone` must be nobody else's: it becomes the result."""
    body: Any = reduced.body
    model, tower, entry = body.model, body.tower, body.entry
    *path, name = body.dialect.layers.split(".")
    holder = functools.reduce(getattr, path, tower)
    setattr(holder, name, ReducedLayers(getattr(holder, name), reduced, whole=not entry.classifies))
    for part in {id(model): model, id(tower): tower}.values():
        part.__class__ = _reduced_class(type(part), part is tower)
        part.__dict__[REDUCED] = reduced
    if reduced.methods.state_dict():
        model.add_module(METHODS_KEY, reduced.methods)
    if hasattr(tower, "use_head"):
        tower.use_head = False  # its pooling gets the tokens that are left
    return model


@functools.cache
def _reduced_class(cls: type, tower: bool) -> type:
    """A class of the same name over transformers' own."""
    own: dict[str, Any] = {"_reduces": cls, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    own["forward"] = _tower_forward(cls) if tower else _model_forward(cls)
    return type(cls.__name__, (ReducedPretrained, cls), own)


def _tower_forward(cls: Any) -> Any:
    names = list(inspect.signature(cls.forward).parameters)[2:]  # behind self and the images

    @functools.wraps(cls.forward)
    def forward(self, pixel_values: Tensor, *args: Any, passage: Passage | None = None, **kwargs: Any) -> Any:
        _refuse({**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs)
        body = self.reduced.body
        attends = passage is None and hasattr(self, "head")  # who gives a passage pools by itself
        passage = Passage(pixel_values) if passage is None else passage
        as_tuple = attends and kwargs.pop("return_dict", True) is False
        out = cls.forward(self, pixel_values, *args, passage=passage, **kwargs)
        if attends:
            tokens: Any = passage.tokens
            pooled = body.entry_pool(tokens.with_x(body.norm(tokens.x)))
            out = type(out)(**{f.name: getattr(out, f.name) for f in fields(out)} | {"pooler_output": pooled})
        return out.to_tuple() if as_tuple else out

    return forward


def _model_forward(cls: Any) -> Any:
    @functools.wraps(cls.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        body = self.reduced.body
        if body.entry.head.prefix_only or not body.entry.classifies:
            return cls.forward(self, *args, **kwargs)
        return _classify(self, body, *args, **kwargs)

    return forward


def _classify(model: Any, body: Any, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
    """A classifier of averaged patches, as transformers' own, with the tokens that are left, by size."""
    as_tuple = kwargs.pop("return_dict", None) is False
    passage = Passage(pixel_values)
    outputs = body.tower(pixel_values, passage=passage, **kwargs)
    assert passage.tokens is not None
    logits = body.head(passage.tokens.with_x(body.norm(passage.tokens.x)))
    loss = None if labels is None else model.loss_function(labels, logits, model.config)
    out = classifier_output(loss, logits, outputs.hidden_states)
    return out.to_tuple() if as_tuple else out


def _refuse(given: dict[str, Any]) -> None:
    """Raise ValueError for what a reduced model cannot give."""
    for name, value in given.items():
        if name in REFUSED and value is not None and value is not False:
            raise ValueError(f"{name} is not supported: {REFUSED[name]}; leave it out, or ask the dense model")


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of all modules that shares every parameter and buffer."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)
