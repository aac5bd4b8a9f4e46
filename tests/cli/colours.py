"""Ten classes, each of one colour, and models that know them in an order of their own; commands that judge these."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch

from vitrim import cli

NAMES = [f"c{i}" for i in range(1, 11)]
QUICK = ["--rounds", "1", "--workers", "0", "--threads", "1", "--batch-size", "20", "--device", "cpu"]


def colour(index: int) -> tuple[int, int, int]:
    return 25 * index, 250 - 25 * index, 0


def knowing(order: list[str]) -> torch.nn.Module:
    """A model that tells the colours apart, with its classes in this order: its head is solved for, not trained."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=10).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    pixels = torch.stack([(torch.tensor(colour(NAMES.index(name))) / 255 - mean) / std for name in order])
    with torch.no_grad():
        features = model.forward_head(
            model.forward_features(pixels[:, :, None, None].expand(-1, -1, 32, 32)), pre_logits=True
        )
        design = torch.cat([features, torch.ones(10, 1)], dim=1).double()
        solved = torch.linalg.lstsq(design, torch.eye(10).double()).solution.float()
        model.head.weight.copy_(solved[:-1].T)
        model.head.bias.copy_(solved[-1])
    return model


def model(root, classes=10, weights="torchvision.safetensors"):
    return [
        *["--model", "test_vit", "--image-size", "32", "--num-classes", str(classes)],
        "--checkpoint",
        str(root / weights),
    ]


def evaluated(capsys, *arguments, command="evaluate"):
    assert cli.main([command, *arguments, *QUICK, "--keep", "1", "--json", "f.json"]) == 0
    said = capsys.readouterr().out
    return json.loads(Path("f.json").read_text()), said


def refused(capsys, *arguments) -> str:
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and len(err.replace(str(Path.cwd()), "")) <= 330
    return err
