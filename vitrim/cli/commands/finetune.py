"""What `vitrim finetune` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..shared.options import CLASSES_OWN, PRECISIONS, MethodChoice, ModelOptions, OutputOptions
from ..shared.spec import PLACES, Command, option, required

RECIPES = ("distill", "evit_finetune", "evit_scratch", "bat_scratch", "idlevit", "tofe", "dynamicvit")
RECIPE = "the recipe's"


@dataclass(kw_only=True)
class TrainingOptions:
    """Training"""

    data: Path = required("training images: one folder per class; for a recipe without labels any folder")
    out: Path = required("folder for the result, its checkpoints and its figures")
    val: Path | None = option(
        "validation images, judged after every epoch", shown="none: nothing is judged", common=True
    )
    recipe: str = option(
        "the published run to follow (vitrim recipes lists them); distill needs no labels",
        "distill",
        choices=RECIPES,
        common=True,
    )
    short: bool = option("the recipe for small machines: 1 epoch, batches of 32", False, common=True)
    resume: bool = option("go on from the last checkpoint in --out", False, common=True)
    limit: int | None = option("use N training images, drawn at random", shown="all", common=True)
    val_limit: int | None = option("judge by N validation images, drawn at random", shown="all")
    crop_pct: float | None = option("share that the centre crop of validation images keeps", shown="the model's own")
    class_map: Path | None = option(
        "a file that gives the model's class for each name: `name,index`", shown=CLASSES_OWN
    )
    scratch: bool = option("start from random weights (evit_scratch, bat_scratch)", False)


@dataclass(kw_only=True)
class MachineOptions:
    """Machine"""

    device: str | None = option("cpu or cuda", shown="cuda where there is one", common=True)
    precision: str = option("numbers to compute in; weights stay float32", "float32", choices=PRECISIONS, common=True)
    micro_batch: int | None = option("images that a process computes at once", shown="the whole batch")
    workers: int = option("processes that decode images, for each process that trains", 1)
    threads: int | None = option("CPU threads", shown="torch's choice")
    save_minutes: float = option("minutes between checkpoints, beside the one after each epoch", 10.0)
    log_every: int = option("steps between rows of steps.csv", 10)
    compile: bool = option("compile the model with torch.compile", False)
    grad_checkpointing: bool = option("save memory: recompute blocks in the backward pass", False)
    trackers: tuple[str, ...] = option("where else to log", (), choices=("tensorboard", "trackio", "wandb"))
    seed: int = option("seed of everything that is drawn at random", 0)


@dataclass(kw_only=True)
class ChangeOptions:
    """Changes to the recipe (`vitrim recipes NAME` shows its numbers)"""

    epochs: int | None = option("epochs", shown=RECIPE, common=True)
    batch_size: int | None = option("images in a batch, over all processes", shown=RECIPE, common=True)
    lr: float | None = option("peak learning rate", shown=RECIPE, common=True)
    min_lr: float | None = option("learning rate at the end", shown=RECIPE)
    warmup_epochs: int | None = option("epochs of linear warm-up", shown=RECIPE)
    weight_decay: float | None = option("weight decay", shown=RECIPE)
    clip_grad: float | None = option("largest norm of the gradient; 0: any", shown=RECIPE)
    layer_decay: float | None = option("factor on the learning rate from each block to the one before", shown=RECIPE)
    drop_path: float | None = option("stochastic depth of the last block", shown=RECIPE)
    backbone_scale: float | None = option("factor on the backbone's learning rate", shown=RECIPE)
    frozen_epochs: int | None = option("epochs in which the backbone does not learn", shown=RECIPE)
    keep_start: int | None = option("epochs in which all tokens are kept", shown=RECIPE)
    keep_epochs: int | None = option("epochs in which the keep rate falls to its value", shown=RECIPE)
    ema: float | None = option("decay of the running mean of the weights; 0: none", shown=RECIPE)
    judge_ema: bool | None = option("judge and save the running mean", shown=RECIPE)
    cut_part: str | None = option("parts of the cut loss", shown=RECIPE, choices=("both", "inter", "intra", "none"))
    cut_map: str | None = option("attention map of the cut loss", shown=RECIPE, choices=("maps", "logits"))
    cut_row_mean: bool | None = option("divide the cut loss by its rows", shown=RECIPE)
    budget_of_mean: bool | None = option("hold the batch's mean to the budget, not each image", shown=RECIPE)
    frozen: tuple[str, ...] = option("parameters that never learn, by the beginning of their names", (), shown=RECIPE)
    classification: float | None = option("weight of the cross entropy with the labels", shown=RECIPE)
    logit_kl: float | None = option("weight of the divergence from the dense model's prediction", shown=RECIPE)
    features: float | None = option("weight of the distance from the dense model's class token", shown=RECIPE)
    token_mse: float | None = option("weight of the distance from the dense model's tokens", shown=RECIPE)
    cut: float | None = option("weight of the cut loss (IdleViT)", shown=RECIPE)
    approximation: float | None = option("weight of the approximation loss (ToFe)", shown=RECIPE)
    budget: float | None = option("weight of the budget loss (ToFe)", shown=RECIPE)
    ratio: float | None = option("weight of the ratio loss (DynamicViT, masked methods)", shown=RECIPE)
    token_labels: float | None = option("weight of the token labels (LV-ViT)", shown=RECIPE)
    scale: tuple[float, ...] = option("smallest and largest share of the image that a crop takes", (), shown=RECIPE)
    hflip: float | None = option("probability of a horizontal flip", shown=RECIPE)
    rand_augment: str | None = option("timm's RandAugment policy", shown=RECIPE)
    color_jitter: float | None = option("strength of the colour jitter", shown=RECIPE)
    erasing: float | None = option("probability of random erasing", shown=RECIPE)
    mixup: float | None = option("mixup alpha", shown=RECIPE)
    cutmix: float | None = option("cutmix alpha", shown=RECIPE)
    smoothing: float | None = option("label smoothing", shown=RECIPE)
    repeated: int | None = option("copies of each image in a batch", shown=RECIPE)


FINETUNE = Command(
    "finetune",
    "fine-tune a reduced model, with or without labels",
    "The dense model teaches a copy of itself that has the method. A run can be interrupted at any moment; "
    "--resume goes on from its last checkpoint. The result is a folder for --checkpoint and vitrim.load.",
    (
        "vitrim finetune --model deit_small_patch16_224 --data train --out runs/evit",
        "vitrim finetune --checkpoint runs/evit --data train --epochs 2 --out runs/2",
    ),
    {
        "model": ModelOptions,
        "method": MethodChoice,
        "training": TrainingOptions,
        "machine": MachineOptions,
        "change": ChangeOptions,
        "output": OutputOptions,
    },
    PLACES,
)
