"""Where the real weights and photographs are: VITRIM_SHARED, by default `shared` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path(os.environ.get("VITRIM_SHARED", Path(__file__).resolve().parents[2] / "shared")).expanduser()
