"""Train ToFe's learned parts for `vitrim demo`: its selectors and approximators, one set for each cost of the demo.

    python benchmarks/train_demo_parts.py --out vitrim/demo/tofe_parts.safetensors

One processor core, no network, 4.6 minutes of processor time on an AMD EPYC (a busy one). On 1,000 test canvases, which
the training has not seen: 95.5 % at half the dense cost, 95.6 % at 40 %, 95.6 % at 70 %.

The demo's model stays as it is, so that every method in the demo reduces the same model; only what ToFe adds to it
learns. Losses are the project's own: cross entropy with the label, distance to the dense model's logits, ToFe's
approximation loss, and the ratio loss, which holds the stages to the shares that the cost allows (ToFe, Table V). So a
row of ToFe costs what the other rows cost. Pictures are painted anew for every step, from scikit-learn's training
digits.
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from vitrim.common.files import check_output, write_whole
from vitrim.demo.digits import DigitCanvases, normalise, paint_canvases, source_digits
from vitrim.demo.model import load_model
from vitrim.demo.parts import TRAINED_COSTS, part_key
from vitrim.evaluate.accuracy import evaluate
from vitrim.runtime.model import ReducedViT
from vitrim.training.finetune import make_teacher, objective_of
from vitrim.training.objective import Objective, Teacher
from vitrim.training.recipes import Recipe, override, tofe
from vitrim.training.student import make_student

BATCH_SIZE, PEAK_LR, WEIGHT_DECAY = 16, 4e-3, 0.01


def recipe() -> Recipe:
    """ToFe's recipe with fixed shares and the dense model's logits to learn from."""
    return override(tofe(), ratio=100.0, budget=0.0, logit_kl=1.0, approximation=0.1, smoothing=0.0)


def train(cost: float, steps: int, seed: int, start: dict[str, Tensor] | None = None) -> ReducedViT:
    """The demo's model with ToFe trained for a share of the dense cost. Prints progress ten times.

    start: learned parts of another cost to go on from
    """
    torch.manual_seed(seed)
    generator, digits, dense = torch.Generator().manual_seed(seed), source_digits("train"), load_model()
    student, wanted = make_student(dense, "tofe", recipe(), cost, {})
    student.backbone.requires_grad_(False)
    student.methods[0].load_state_dict(start or {}, strict=False)
    learned = list(student.methods.parameters())
    teacher, objective = make_teacher(dense, student, wanted), objective_of(wanted, student, cost)
    optimizer = torch.optim.AdamW(learned, PEAK_LR, weight_decay=WEIGHT_DECAY)
    scheduler = CosineLRScheduler(optimizer, steps, warmup_t=steps // 30, warmup_lr_init=1e-5, t_in_epochs=False)
    for step in range(steps):
        scheduler.step_update(step)
        canvases = paint_canvases(digits, BATCH_SIZE, generator)
        parts = losses(student.train(), teacher, objective, normalise(canvases.images), canvases.labels)
        optimizer.zero_grad()
        objective.total(parts).backward()
        optimizer.step()
        if (step + 1) % max(1, steps // 10) == 0:
            figures = "  ".join(f"{name} {part.item():.3f}" for name, part in parts.items())
            print(f"cost {cost:g}  step {step + 1:4d}/{steps}  {figures}", flush=True)
    return student.eval()


def losses(
    student: ReducedViT, teacher: Teacher, objective: Objective, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The unweighted parts of the loss on one batch."""
    logits, loss_inputs = student(images, losses="masks")
    return objective.parts(logits, loss_inputs, labels, teacher(images))


def as_stored(student: ReducedViT) -> dict[str, Tensor]:
    """The learned parts as the package stores them: weights in half precision; the shares that it keeps stay exact.
    The student goes on with these values, so that what is measured is what is stored."""
    method = student.methods[0]
    parts = {name: t if name == "kept_shares" else t.half() for name, t in method.state_dict().items()}
    method.load_state_dict({name: tensor.float() for name, tensor in parts.items()})
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description="Train ToFe's learned parts for `vitrim demo`.")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write (half precision)")
    parser.add_argument("--steps", type=int, default=240, help=f"steps of {BATCH_SIZE} canvases; other costs: a third")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    check_output(options.out, (".safetensors",))
    torch.set_num_threads(1)
    stored: dict[str, Tensor] = {}
    first: dict[str, Tensor] | None = None
    images = DataLoader(DigitCanvases("test", 1000, seed=1), batch_size=50)
    for cost in TRAINED_COSTS:
        begin = time.process_time()
        student = train(cost, options.steps // (1 if first is None else 3), options.seed, first)
        parts = as_stored(student)
        minutes, found = (time.process_time() - begin) / 60, evaluate(student, images)
        print(f"cost {cost:g}: {minutes:.1f} minutes of processor time, top-1 {found.top1:.1f} % on 1000 test canvases")
        stored |= {part_key(cost, name): tensor for name, tensor in parts.items()}
        first = first or {name: tensor.float() for name, tensor in parts.items() if name != "kept_shares"}
    write_whole(options.out, lambda beside: Path(beside).write_bytes(save(stored)))
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
