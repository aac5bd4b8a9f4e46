"""Packages that only some commands need: who installs vitrim without them is told so in one line, when it matters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

# Extra of pyproject.toml -> the packages that it brings: name to import -> name to install.
EXTRAS = {
    "train": {"accelerate": "accelerate"},
    "plot": {"matplotlib": "matplotlib", "jinja2": "jinja2"},
    "export": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
    "openvino": {"openvino": "openvino", "nncf": "nncf"},
    "data": {"pyarrow": "pyarrow"},
    "ray": {"ray": "ray"},
    "transformers": {"transformers": "transformers"},
    "playground": {"gradio": "gradio", "fastapi": "fastapi", "uvicorn": "uvicorn", "jinja2": "jinja2"},
    "demo": {"jinja2": "jinja2", "sklearn": "scikit-learn", "matplotlib": "matplotlib"},
}


def require(extra: str, what: str) -> None:
    """Raise ValueError, naming what to install, where a package that `what` needs is missing.

    A package that is there and breaks on import is no missing one: its own error is raised.
    """
    _check(extra, what, _installed)


def require_found(extra: str, what: str) -> None:
    """The same by a look at what is installed, without importing it, which can take seconds."""
    _check(extra, what, lambda module: find_spec(module) is not None)


def _check(extra: str, what: str, there: Callable[[str], bool]) -> None:
    missing = [package for module, package in EXTRAS[extra].items() if not there(module)]
    if missing:
        raise ValueError(f'{what} needs {", ".join(missing)}: pip install "vitrim[{extra}]"')


@contextmanager
def without_telemetry() -> Generator[None]:
    """Nothing is sent by what is imported and called meanwhile.

    `import openvino` and NNCF report their use to Google Analytics, unless the package `openvino_telemetry` is missing
    or a file in the home folder says no. They are told that it is missing: what a user exports is nobody's business.
    """
    name = "openvino_telemetry"
    before = {key: sys.modules.pop(key) for key in list(sys.modules) if key.partition(".")[0] == name}
    sys.modules[name] = None  # ty: ignore[invalid-assignment]  # Python's way to say that there is none
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(before)


def _installed(module: str) -> bool:
    try:
        with without_telemetry():
            import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return False
        if not any(error.name in packages for packages in EXTRAS.values()):  # one of these is told by itself
            raise
    return True
