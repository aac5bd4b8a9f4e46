"""What options and their values were called before, and how to say it now."""

from __future__ import annotations

RENAMED = {
    "dtype": "--precision {}",
    "cpu": "--device cpu",
    "val-crop-pct": "--crop-pct {}",
    "picture": "--out {}",
}
RENAMED_VALUES = {("precision", "no"): "float32", ("precision", "bf16"): "bfloat16", ("precision", "fp16"): "float16"}
