"""Features in files of many images each: `.npy` with the names beside, or Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..common.extras import require

Shards = dict[str, np.ndarray]


class Fill(Protocol):
    """Writes a file whole, as `Journal.fill` does."""

    def __call__(self, path: Path, write: Callable[[Path], object]) -> None: ...


def write_npy(path: Path, files: Sequence[str], features: np.ndarray, fill: Fill) -> None:
    """`part-00000000.npy`, [n, ...], and before it the names of its n images, as JSON in `part-00000000.json`."""
    names = json.dumps(list(files), ensure_ascii=False).encode()
    fill(path.with_suffix(".json"), lambda beside: beside.write_bytes(names))
    fill(path, lambda beside: _save(beside, np.ascontiguousarray(features)))


def _save(path: Path, features: np.ndarray) -> None:
    """As np.save, which writes past Python and does not say why a disk refuses."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(features))
        file.write(features.data)


def write_parquet(path: Path, files: Sequence[str], features: np.ndarray, fill: Fill) -> None:
    """The columns `file` and `embedding`, whose lists hold a feature each; their shape is in the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shape = features.shape[1:]
    flat = pa.array(np.ascontiguousarray(features).reshape(-1))
    embedding = pa.FixedSizeListArray.from_arrays(flat, math.prod(shape))
    table = pa.table({"file": pa.array(list(files), pa.string()), "embedding": embedding})
    table = table.replace_schema_metadata({"shape": json.dumps(list(shape))})
    fill(path, lambda beside: pq.write_table(table, beside))


SHARDS = {"npy": write_npy, "parquet": write_parquet}


def shard_writer(format: str) -> Callable[[Path, Sequence[str], np.ndarray, Fill], None]:
    """What writes shards of a format. Raises ValueError for one that is not known, and for Parquet without pyarrow."""
    if format not in SHARDS:
        raise ValueError(f"format {format!r} is not known: choose {' or '.join(SHARDS)}")
    if format == "parquet":
        require("data", "writing Parquet")
    return SHARDS[format]
