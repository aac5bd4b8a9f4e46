"""Train the model of `vitrim demo` from nothing.

    python benchmarks/train_demo.py --out vitrim/demo/digits_vit.safetensors

One processor core, no network, 23 minutes of processor time on an AMD EPYC (a busy one); 95.1 % on 4,000 test canvases.
The same seed gives the same canvases and, on the same machine, the same weights. Three things make so little suffice:

- Training starts on small windows of the canvas, as crowded as the whole, and ends on whole canvases. A window uses its
  own part of the position embedding, at a place drawn anew for each batch, so that every position is learned.
- Every patch token is labelled too: with the digit that it shows, or "none" ("All Tokens Matter: Token Labeling",
  Jiang et al. 2021; here from the painted boxes and not from another model). The layer that reads these
  labels is thrown away. The patches of the digit then differ from those of fragments, and class attention finds them.
- Matrices are trained by Muon, the rest by AdamW, both as timm has them. AdamW alone learned more slowly.

bfloat16 autocast was slower for this model on the processor above, which has AVX-512 BF16, so all is float32.
"""

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Generator, Tensor, nn

from vitrim.common.files import check_output, write_whole
from vitrim.demo.digits import CANVAS_SIZE, CLASSES, Canvases, DigitCanvases, normalise, paint_canvases, source_digits
from vitrim.demo.model import PATCH_SIZE, build_model

GRID = CANVAS_SIZE // PATCH_SIZE
NONE = CLASSES  # the label of a patch that shows no whole digit
BATCH_SIZE, PEAK_LR, WEIGHT_DECAY, LABEL_SMOOTHING = 64, 0.01, 0.05, 0.05
SMALLEST_WINDOW, GROWTH = 24, (0.35, 0.80)  # pixels; shares of the steps between which the window grows


class Trainee(nn.Module):
    """The model and, for training only, a classifier of patch tokens."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model
        self.patch_classifier = nn.Linear(model.embed_dim, CLASSES + 1)
        # A position embedding that knows rows from columns at the start; it is trained like all else.
        with torch.no_grad():
            model.pos_embed[0, 1:] = 0.3 * build_sincos2d_pos_embed([GRID, GRID], model.embed_dim)
        model.patch_embed.strict_img_size = False

    def forward(
        self, images: Float[Tensor, "b 1 h w"], positions: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b n classes_and_none"]]:
        """Logits of windows of the canvas that cover the patches at `positions`, and those of each patch."""
        model = self.model
        patches = model.patch_embed(images) + model.pos_embed[:, 1 + positions]
        cls_token = (model.cls_token + model.pos_embed[:, :1]).expand(len(images), -1, -1)
        tokens = model.norm(model.blocks(torch.cat([cls_token, patches], dim=1)))
        return model.head(tokens[:, 0]), self.patch_classifier(tokens[:, 1:])


def window_size(progress: float) -> int:
    """Pixels of the training window, a multiple of the patch size, after `progress` (0 to 1) of the steps."""
    start, end = GROWTH
    grown = min(1, max(0, (progress - start) / (end - start)))
    steps = (CANVAS_SIZE - SMALLEST_WINDOW) // PATCH_SIZE
    return SMALLEST_WINDOW + PATCH_SIZE * math.ceil(grown * steps)


def window_positions(size: int, generator: Generator) -> Int[Tensor, " n"]:
    """Patch positions of a square window of `size` pixels somewhere on the canvas."""
    side = size // PATCH_SIZE
    top, left = torch.randint(GRID - side + 1, (2,), generator=generator)
    rows = torch.arange(side)
    return ((top + rows)[:, None] * GRID + left + rows).flatten()


def patch_labels(canvases: Canvases) -> Int[Tensor, "b n"]:
    """The digit's class for patches whose centre lies in its box, else `NONE`."""
    centres = torch.arange(PATCH_SIZE / 2, canvases.images.shape[-1], PATCH_SIZE)
    top, left, side = canvases.boxes.T[..., None]
    rows, columns = ((centres > edge) & (centres < edge + side) for edge in (top, left))
    inside = rows[:, :, None] & columns[:, None, :]
    return torch.where(inside, canvases.labels[:, None, None], NONE).flatten(1)


def train(steps: int, seed: int) -> VisionTransformer:
    """The trained model. A line of progress is printed for every fortieth of the steps."""
    torch.manual_seed(seed)
    generator, digits = torch.Generator().manual_seed(seed), source_digits("train")
    trainee = Trainee(build_model()).train()
    optimizer = create_optimizer_v2(trainee, "muon", lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    scheduler = CosineLRScheduler(optimizer, steps, warmup_t=steps // 30, warmup_lr_init=1e-5, t_in_epochs=False)
    begin = time.process_time()
    for step in range(steps):
        scheduler.step_update(step)
        size = window_size(step / steps)
        canvases = paint_canvases(digits, BATCH_SIZE, generator, size)
        loss, accuracy = _losses(trainee, canvases, window_positions(size, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % max(1, steps // 40) == 0:
            done, seconds = f"step {step + 1:5d}/{steps}  {size} px", time.process_time() - begin
            print(f"{done}  loss {loss:.3f}  batch accuracy {accuracy:.2f}  {seconds:.0f} s", flush=True)
    return trainee.model.eval()


def _losses(trainee: Trainee, canvases: Canvases, positions: Int[Tensor, " n"]) -> tuple[Tensor, float]:
    logits, patch_logits = trainee(normalise(canvases.images), positions)
    whole = F.cross_entropy(logits, canvases.labels, label_smoothing=LABEL_SMOOTHING)
    patches = F.cross_entropy(patch_logits.flatten(0, 1), patch_labels(canvases).flatten())
    return whole + patches, (logits.argmax(1) == canvases.labels).float().mean().item()


@torch.inference_mode()
def accuracy(model: VisionTransformer, count: int, seed: int) -> float:
    """Top-1 accuracy in percent on `count` test canvases, whose digits the training has never seen."""
    canvases = DigitCanvases("test", count, seed).canvases
    logits = torch.cat([model(normalise(images)) for images in canvases.images.split(100)])
    return 100 * (logits.argmax(dim=1) == canvases.labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of `vitrim demo` from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write (half precision)")
    parser.add_argument("--steps", type=int, default=2600, help=f"optimiser steps of {BATCH_SIZE} canvases")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    check_output(options.out, (".safetensors",))
    torch.set_num_threads(1)
    begin, cpu = time.perf_counter(), time.process_time()
    model = train(options.steps, options.seed)
    # What is measured below is what is stored: weights rounded to half precision, used in float32.
    stored = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    write_whole(options.out, lambda beside: Path(beside).write_bytes(save(stored)))
    minutes, cpu_minutes = (time.perf_counter() - begin) / 60, (time.process_time() - cpu) / 60
    print(f"trained in {minutes:.1f} minutes ({cpu_minutes:.1f} of processor time)")
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")
    print(f"top-1 on 4000 test canvases: {accuracy(model, 4000, seed=1):.2f} %")


if __name__ == "__main__":
    main()
