"""Packages that only some commands need: who installs vitrim without them is told so in one line, when it matters."""

from __future__ import annotations

from importlib import import_module

# Extra of pyproject.toml -> the packages that it brings: name to import -> name to install.
EXTRAS = {
    "train": {"accelerate": "accelerate"},
    "plot": {"matplotlib": "matplotlib"},
    "export": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
    "demo": {"jinja2": "jinja2", "sklearn": "scikit-learn", "matplotlib": "matplotlib"},
}


def require(extra: str, what: str) -> None:
    """Raise ValueError, naming what to install, where a package that `what` needs is missing.

    A package that is there and breaks on import is no missing one: its own error is raised.
    """
    missing = [package for module, package in EXTRAS[extra].items() if not _installed(module)]
    if missing:
        raise ValueError(f'{what} needs {", ".join(missing)}: pip install "vitrim[{extra}]"')


def _installed(module: str) -> bool:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return False
        if not any(error.name in packages for packages in EXTRAS.values()):  # one of these is told by itself
            raise
    return True
