"""What a vision model of transformers is made of: where its tower, its layers and their parts are, and how many.

Nothing is run here; `family.py` does that.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..admission import Around
from ..base import Backbone
from ..layers import kind
from . import towers
from .checks import kinds_of
from .dialects import entry_of
from .heads import Head
from .processors import recorded


class TransformersStructure(Backbone):
    """transformers' vision models, exactly the classes in `dialects.ENTRIES`; of models of two modalities the vision
    tower, also of those in `towers.READERS`.

    tower:   the part that goes from images to tokens
    reading: what a language model is given of it; None: it has a head of its own
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        located = towers.locate(model)
        entry, self.reader, self.reading, self.path = located.entry, located.reader, located.reading, located.path
        self.entry, self.dialect, self.template = entry, entry.dialect, entry.dialect.template
        self.tower: Any = located.tower
        self.config: Any = self.tower.config

    @classmethod
    def runs(cls, model_type):
        return towers.runs(model_type)

    # -- what the model is

    @property
    def layers(self) -> Any:
        """The list of layers."""
        return towers.part_at(self.tower, self.dialect.layers)

    def all_blocks(self):
        return self.layers._modules.values()

    def _part(self, i: int, name: str) -> Any:
        return getattr(self.layers[i], name)

    def _attn(self, i: int) -> Any:
        return self._part(i, self.template.attention)

    @property
    def depth(self):
        """Layers up to the last one that is read."""
        return max(self.reading.states, default=len(self.layers)) if self.reading else len(self.layers)

    @property
    def width(self):
        return self.config.hidden_size

    @property
    def prefix(self):
        return self.dialect.prefix + self.dialect.registers(self.config)

    @property
    def class_tokens(self):
        return tuple(range(self.dialect.prefix))

    def heads(self, i):
        attn = self._attn(i)
        return attn.q_proj.out_features // attn.head_dim, attn.head_dim

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that the model is made for; of one that takes any size, those that
        its image processor makes."""
        known = recorded(self.model) if self.dialect.has_any_size and self.reader is None else {}
        return known["input_size"][1:] if "input_size" in known else self.dialect.stem.image_size(self.config)

    def grid(self, image_size=None):
        return self.dialect.stem.grid(self.config, self.image_size if image_size is None else image_size)

    def check_ragged(self):
        """Every head pools what an image has left."""

    def recomputes(self, i):
        return bool(self.layers[i].gradient_checkpointing and self.layers[i].training)

    def check_prediction_only(self):
        if not self.entry.classifies:
            name = type(self.model).__name__
            raise ValueError(f"prediction_only is for classifiers, and {name} returns what its tokens have become too")
        if not self.entry.head.prefix_only:
            super().check_prediction_only()

    # -- what sits on it

    def around(self) -> Around:
        parts: Around = []
        for layer in self.all_blocks():
            parts.append((layer, kinds_of(kind(layer))))
            attn = layer._modules.get(self.template.attention)
            if attn is not None:
                parts.append((attn, kinds_of(kind(attn))))
        return parts

    def after_blocks(self):
        norms = (module for name, module in self.tower.named_children() if "norm" in name)
        return *norms, *(module for module in self.model.children() if module is not self.tower)

    def is_fresh(self):
        return False

    # -- who reads it

    @property
    def _tower_head(self) -> Head:
        entry = entry_of(kind(self.tower))
        return self.entry.head if entry is None else entry.head

    @property
    def reads(self):
        if self.reading is None:
            return ()
        return tuple(state - 1 for state in self.reading.states) or (self.depth - 1,)
