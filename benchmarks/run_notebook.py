"""Run docs/notebooks/faster_vit.ipynb and put what it shows into it, with pictures as JPEG, which is a fifth as large.

    pip install nbclient ipykernel scikit-image
    python benchmarks/run_notebook.py --checkpoint deit_tiny_patch16_224.safetensors

It times models: let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebooks" / "faster_vit.ipynb"
LARGEST = 400_000  # bytes


def main() -> None:
    """Run it from a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="weights of DeiT-Ti; else they are downloaded")
    given = parser.parse_args().checkpoint
    if given:
        os.environ["NOTEBOOK_WEIGHTS"] = str(Path(given).resolve())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}  # when each cell ran
        if cell.cell_type == "code":
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]  # remarks about Jupyter
            cell.outputs = [smaller(output) for output in shown]
    nbformat.write(notebook, NOTEBOOK)
    assert NOTEBOOK.stat().st_size < LARGEST, "the notebook is too large for the repository"


def smaller(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """What a cell shows, a picture as JPEG."""
    if "image/png" in output.get("data", {}):
        found, made = io.BytesIO(base64.b64decode(output.data.pop("image/png"))), io.BytesIO()
        Image.open(found).convert("RGB").save(made, "JPEG", quality=82, optimize=True)
        output.data["image/jpeg"] = base64.b64encode(made.getvalue()).decode()
    return output


if __name__ == "__main__":
    main()
