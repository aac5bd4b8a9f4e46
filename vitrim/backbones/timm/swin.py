"""Swin: timm's `SwinTransformer`. Tokens must keep their grid, so only methods that idle or freeze fit.

The tokens outside skip every linear layer; attention runs in the shifted windows, where the tokens outside are masked
out as keys. That is what the masked form over all tokens computes, too. Windows are always whole: their attention
products cost the same however many tokens are in them, and that is what is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from timm.models.swin_transformer import (
    PatchMerging,
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerStage,
    WindowAttention,
)
from torch import nn

from ...common.errors import OptionError
from ...core.recording import divided, grid_of, length, no_image
from ...core.tokens import Tokens
from ..admission import Around, around_blocks, kinds
from ..base import Backbone
from ..counting import conv_macs
from .checks import check_size, check_type, embedded_grid
from .plain import SEQUENTIAL
from .windows import WindowEvidence, attend_windows, check_windows, head_channels, on_grid, padded

MODELS, STAGES = kinds(SwinTransformer, steps=("forward", "forward_features")), kinds(SwinTransformerStage)
BLOCKS, ATTENTIONS = kinds(SwinTransformerBlock, steps=("forward", "_attn")), kinds(WindowAttention)


class SwinBackbone(Backbone):
    """timm's `SwinTransformer`, exactly this type. Blocks count from 0 over all stages.

    places: (stage, number in the stage) of every block
    """

    family = "swin"
    models = (SwinTransformer,)
    kinds: ClassVar[dict[str, str]] = {"Swin": "swin_tiny_patch4_window7_224"}

    def __init__(self, model):
        super().__init__(model)
        self._whole = self.grid()  # of the images at hand
        self.places = [(s, j) for s, stage in enumerate(model.layers) for j in range(len(stage.blocks))]

    @classmethod
    def check(cls, model):
        for stage in model.layers:
            check_type("a stage", stage, SwinTransformerStage)
            check_type("patch merging", stage.downsample, PatchMerging, nn.Identity)
        for i, block in enumerate(block for stage in model.layers for block in stage.blocks):
            check_windows(i, block)

    # -- what the model is

    def block(self, i: int) -> SwinTransformerBlock:
        """Block i, counted over all stages."""
        stage, j = self.places[i]
        return self.model.layers[stage].blocks[j]

    @property
    def depth(self):
        return len(self.places)

    @property
    def width(self):
        return self.model.num_features

    def channels(self, i):
        return self.block(i).dim

    @property
    def prefix(self):
        return 0

    @property
    def class_tokens(self):
        return ()

    def heads(self, i):
        attn = self.block(i).attn
        return attn.num_heads, head_channels(attn)

    @property
    def default_blocks(self):
        """The third stage, or the longest where there are fewer: where DynamicViT and IdleViT act on Swin."""
        depths = [len(stage.blocks) for stage in self.model.layers]
        chosen = 2 if len(depths) > 2 else depths.index(max(depths))
        return range(sum(depths[:chosen]), sum(depths[: chosen + 1]))

    @property
    def feature_blocks(self):
        """The last block of every stage."""
        return [i for i in range(self.depth) if i + 1 == self.depth or self.places[i + 1][1] == 0]

    def restore_by(self, block):
        """The end of its stage: patch merging and the pooling at the end need the whole grid."""
        return 1 + min(end for end in self.feature_blocks if end >= block)

    def admit(self, method):
        if not method.undoes:
            raise OptionError(
                f"{method.name} removes tokens for good, and Swin's windows and patch merging need the whole grid: "
                "tokens must keep their grid. Use a method that idles or freezes: idlevit with ",
                *({"score": "predictor"}, ", tofe"),
            )

    def admit_places(self, method):
        for place in method.places:
            end = method.restore_before(place)
            if end is None or end > self.restore_by(place.block):
                raise ValueError(
                    f"{method.name} at block {place.block} holds tokens beyond its stage (stages end after blocks "
                    f"{', '.join(map(str, self.feature_blocks))}): tokens must keep their grid where patches merge"
                )

    def check_ragged(self):
        """Windows hold whatever tokens they hold, so images may keep different numbers."""

    def grid(self, image_size=None):
        return embedded_grid(self.model.patch_embed, image_size)

    def grid_at(self, i, grid):
        for stage in self.model.layers[: self.places[i][0] + 1]:
            if not isinstance(stage.downsample, nn.Identity):
                grid = (-(-grid[0] // 2), -(-grid[1] // 2))
        return grid

    # -- running it

    def all_blocks(self):
        return [block for stage in self.model.layers for block in stage.blocks]

    def around(self):
        parts: Around = [(self.model, MODELS), (self.model.layers, SEQUENTIAL)]
        for stage in self.model.layers:
            parts += [(stage, STAGES), (stage.blocks, SEQUENTIAL), *around_blocks(stage.blocks, BLOCKS, ATTENTIONS)]
        return parts

    def recomputes(self, i):
        return self.model.layers[self.places[i][0]].grad_checkpointing

    def _embed(self, images):
        check_size(self.model.patch_embed, images)
        x = self.model.patch_embed(images)
        self._whole = grid_of(x)
        return Tokens(x.flatten(1, 2), prefix=0, grid=self._whole, placed=True)

    def begin(self, tokens):
        return self._hooked(self.before, self.model.layers, tokens)

    def enter(self, i, tokens):
        stage, j = self.places[i]
        if j == 0:
            tokens = self._begin_stage(self.model.layers[stage], tokens)
        return self._hooked(self.before, self.block(i), tokens)

    def _begin_stage(self, stage: SwinTransformerStage, tokens: Tokens) -> Tokens:
        """Patch merging, where the stage has it; notes of single tokens are those of other patches then."""
        tokens = self._hooked(self.before, stage, tokens)
        x = stage.downsample(divided(tokens.x, 1, tokens.grid))
        notes = tokens.notes if grid_of(x) == tokens.grid else tokens.image_notes()
        tokens = replace(tokens, x=x.flatten(1, 2), grid=grid_of(x), notes=notes)
        return self._hooked(self.before, stage.blocks, tokens)

    def leave(self, i, tokens):
        tokens, stage = self._hooked(self.after, self.block(i), tokens), self.model.layers[self.places[i][0]]
        if i in self.feature_blocks:
            tokens = self._hooked(self.after, stage, self._hooked(self.after, stage.blocks, tokens))
        return tokens

    def finish(self, tokens):
        return self._hooked(self.after, self.model.layers, tokens)

    def _hooked(self, run: Callable, module: nn.Module, tokens: Tokens) -> Tokens:
        """Hooks see [b, height, width, c] as in timm, or [b, m, c] where some of the tokens are outside."""
        return on_grid(partial(run, module), tokens) if self.hooked else tokens

    def _entered(self, i: int, tokens: Tokens) -> Tokens:
        """The tokens in the channels of block i, for those who have not called `enter`."""
        return tokens if length(tokens.x, -1) == self.channels(i) else self.enter(i, tokens)

    def probe(self, i, tokens):
        tokens, block = self._entered(i, tokens), self.block(i)
        return WindowEvidence(
            lambda: on_grid(block.norm1, tokens).x, block, prefix=0, class_tokens=(), grid=tokens.grid
        )

    def attend(self, i, tokens, h=None):
        tokens, block = self._entered(i, tokens), self.block(i)
        inside = on_grid(block.norm1, tokens) if h is None else tokens.with_x(h)
        if tokens.position is None and tokens.mask is None and not no_image(inside.x.shape[0]):
            out = on_grid(block._attn, inside)
        else:
            h = self.before(block.attn, inside.x)
            out = inside.with_x(self.after(block.attn, attend_windows(block, h, tokens)))
        evidence = WindowEvidence(inside.x, block, prefix=0, class_tokens=(), grid=tokens.grid)
        return tokens.with_x(self.add(tokens.x, on_grid(block.drop_path1, out).x)), evidence

    def mlp(self, i, tokens):
        block = self.block(i)
        return tokens.with_x(self.add(tokens.x, block.drop_path2(block.mlp(block.norm2(tokens.x)))))

    def norm(self, x):
        return self.model.norm(divided(x, 1, self.grid_at(self.depth - 1, self._whole))).flatten(1, 2)

    def head(self, tokens, pre_logits=False):
        return self.model.forward_head(self.as_features(tokens), pre_logits=pre_logits)

    def as_features(self, tokens):
        return divided(tokens.x, 1, tokens.grid)

    def as_tokens(self, x):
        return Tokens(x.flatten(1, 2), prefix=0, grid=grid_of(x), placed=True)

    # -- what it costs

    def embed_macs(self, grid):
        return conv_macs(self.model.patch_embed, grid, self.model.in_chans)

    def attention_macs(self, i, tokens, grid=None):
        """Linear layers for the tokens present (dense: for the padded windows), products in whole windows."""
        block, (height, width) = self.block(i), self.grid_at(i, grid or self.grid())
        cells = padded(height, block.window_size[0]) * padded(width, block.window_size[1])
        dense = isinstance(tokens, int) and tokens == height * width
        heads, channels = self.heads(i)
        products = 2 * cells * block.window_area * heads * channels
        linear = self.linear_macs(block.attn.qkv, block.dim) + self.linear_macs(block.attn.proj, heads * channels)
        return (cells if dense else tokens) * linear + products

    def mlp_macs(self, i, tokens):
        return tokens * self.linear_macs(self.block(i).mlp, self.channels(i))

    def block_macs(self, i, attended, left, grid):
        stage, j = self.places[i]
        height, width = self.grid_at(i, grid)
        merging = 0 if j else height * width * self._merging_macs(self.model.layers[stage].downsample)
        return merging + self.attention_macs(i, attended, grid) + self.mlp_macs(i, left)

    def _merging_macs(self, merging: Any) -> int:
        """Patch merging, for one token after it."""
        return 0 if isinstance(merging, nn.Identity) else self.linear_macs(merging.reduction, 4 * merging.dim)

    def head_macs(self, tokens):
        return self.linear_macs(self.model.head.fc, self.width)
