"""One small training run, for tests that start it as a process of its own (killed, resumed, or two at a time)."""

import argparse
import json
import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from vitrim.data import open_dataset, open_loader
from vitrim.training import Interrupted, Settings, finetune, get_recipe, loop, override
from vitrim.training.loop import Run
from vitrim.training.steps import Stepper


def small_model():
    """Three classes, 16 patches, four blocks, every parameter random."""
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def draw_photographs(root: Path, count: int) -> Path:
    """`count` images of noise, in folders of three classes."""
    noise = np.random.default_rng(0)
    for i in range(count):
        folder = root / "abc"[i % 3]
        folder.mkdir(exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return root


def kill_before(step: int, saved_at: int) -> None:
    """Die by SIGKILL before `step` is taken, having written a checkpoint after `saved_at` steps."""
    take, epoch = Stepper.take, Run._epoch

    def dying(self, now, *args):
        if now == saved_at:
            dying.run.save()
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, now, *args)

    def remembering(self, journal):
        dying.run = self
        epoch(self, journal)

    Stepper.take, Run._epoch = dying, remembering


def signal_in(step: int, number: int, rank: int | None, twice: bool) -> None:
    """Send the process of that rank (None: every one) a signal in the middle of `step`; with `twice` another one while
    the state is being written."""
    forward, write = Stepper._accumulate, loop.write
    mine = rank is None or int(os.environ.get("RANK", "0")) == rank

    def told(self, *args):
        if mine and told.step == step:
            os.kill(os.getpid(), number)
        told.step += 1
        return forward(self, *args)

    def told_again(path, state):
        if twice:
            os.kill(os.getpid(), number)
        write(path, state)

    told.step = 0
    Stepper._accumulate, loop.write = told, told_again


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", default="evit")
    parser.add_argument("--recipe", default="distill")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--mix", action="store_true")
    parser.add_argument("--kill", type=int)
    parser.add_argument("--saved-at", type=int, default=0)
    parser.add_argument("--stop-by", choices=("SIGINT", "SIGTERM"))
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--of-rank", type=int)
    parser.add_argument("--twice", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.kill is not None:
        kill_before(args.kill, args.saved_at)
    if args.stop_by is not None:
        signal_in(args.at, getattr(signal, args.stop_by), args.of_rank, args.twice)
    recipe = override(
        get_recipe(args.recipe, small=True), batch_size=args.batch_size, epochs=2, lr=1e-3, backbone_scale=1.0
    )
    recipe = override(recipe, mixup=0.8, cutmix=1.0) if args.mix else recipe
    settings = Settings(args.out, cpu=True, show=False, log_every=1, workers=args.workers)
    model = small_model()
    judge_on = open_loader(open_dataset(args.data, model), 8, 0) if args.judge else None
    options = {"keep": 0.6, "resume": args.resume, "judge_on": judge_on}
    try:
        report = finetune(model, args.method, args.data, recipe, settings, **options)
    except Interrupted as stop:
        print(f"told to stop: {stop}", file=sys.stderr, flush=True)
        os._exit(stop.code)
    assert int(os.environ.get("WORLD_SIZE", "1")) == args.processes
    if torch.distributed.is_initialized():
        assert torch.distributed.get_world_size() == args.processes
        torch.distributed.destroy_process_group()
    if int(os.environ.get("RANK", "0")) == 0:
        (args.out / "report.json").write_text(json.dumps({"steps": report.steps, "processes": args.processes}))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
