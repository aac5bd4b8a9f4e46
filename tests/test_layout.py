"""The folders are the architecture: imports go one way and never in a circle, and timm is asked in few places."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vitrim

ROOT = Path(vitrim.__file__).parent
MODULES = {
    ".".join(("vitrim", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
FILES = [path for path in MODULES.values() if path.parent != ROOT]
# A room imports from those before it; `data` and `common` from nothing but each other, everybody from them.
ORDER = (
    "core",
    "backbones",
    "methods",
    "runtime",
    "evaluate",
    "deploy",
    "testing",
    "inference",
    "view",
    "playground",
    "training",
    "tune",
    "demo",
    "cli",
)
ASIDE = {"data", "common"}
# Who imports which modules of timm outside of the backbones' room: timm's data pipeline, and its tools for training.
# All else is asked of `vitrim.backbones.library.Library`.
TIMM_IN_USE = {
    "data/imagenet_names.py": {"timm.data"},
    "data/config.py": {"timm.data"},
    "data/folders.py": {"timm.utils.misc"},  # natural_key: the order of class folders
    "data/labels.py": {"timm.data"},
    "data/photographs.py": {"timm.data"},
    "data/sources.py": {"timm.data"},
    "runtime/by_name.py": {"timm", "timm.models"},  # its registry, which gets names of reduced models
    "training/calibration.py": {"timm.data"},
    "training/optim.py": {"timm.optim", "timm.scheduler"},
    "training/photographs.py": {"timm.data"},
    "training/steps.py": {"timm.utils"},  # ModelEmaV3
}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported_names(path: Path, for_checkers_too: bool = True) -> set[str]:
    """The full names that a file imports, as `module.name`, imports inside functions included.

    for_checkers_too: with what is imported for type checkers alone
    """
    package = ["vitrim", *path.relative_to(ROOT).parts[:-1]]
    names, nodes = set(), [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = [*base, *(node.module.split(".") if node.module else [])]
            names |= {".".join([*whole, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        for_checkers = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        nodes += node.orelse if for_checkers and not for_checkers_too else ast.iter_child_nodes(node)
    return names


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    return {name.split(".")[1] for name in imported_names(path) if name.startswith("vitrim.")} & {*ORDER, *ASIDE}


def imported_modules(path: Path) -> set[str]:
    """The modules of vitrim that a file needs when it runs."""
    names = imported_names(path, for_checkers_too=False)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


def imported_from(library: str, path: Path) -> set[str]:
    """The modules of a library that a file imports, or imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.partition(".")[0] == library}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = room(path)
    allowed = ASIDE if own in ASIDE else {*ORDER[: ORDER.index(own) + 1], *ASIDE}
    assert imported(path) <= allowed, f"{own} may import from {', '.join(sorted(allowed))}"


def test_timm_is_imported_by_the_backbones_and_where_its_pipeline_and_optimisers_are():
    found = {str(path.relative_to(ROOT)): imported_from("timm", path) for path in MODULES.values()}
    outside = {file: names for file, names in found.items() if names and not file.startswith("backbones/")}
    assert outside == TIMM_IN_USE, "ask vitrim.backbones.library_of(model), or change TIMM_IN_USE"


def test_transformers_is_imported_by_its_backbones_alone_and_only_when_asked_for():
    users = {str(path.relative_to(ROOT)) for path in MODULES.values() if imported_from("transformers", path)}
    assert all(file.startswith("backbones/transformers/") for file in users), "ask vitrim.backbones.library_of(model)"
    at_start = {file for file in users for node in ast.parse((ROOT / file).read_text()).body if _imports(node)}
    assert not at_start, "import transformers inside the function that needs it: it is an extra, and slow"


def _imports(node: ast.stmt) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
    names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return any(name.partition(".")[0] == "transformers" for name in names)


def test_no_module_imports_itself_by_way_of_others():
    users = {name: imported_modules(path) for name, path in MODULES.items()}
    try:
        TopologicalSorter(users).prepare()
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' <- '.join(error.args[1])}")


def test_every_room_says_in_a_sentence_what_it_is():
    for folder in {path.parent for path in FILES}:
        text = (folder / "__init__.py").read_text()
        assert re.match(r'"""\S[^\n]+\.', text), f"{folder.relative_to(ROOT)}/__init__.py begins with no sentence"


def test_public_names_are_there():
    assert all(getattr(vitrim, name) is not None for name in vitrim.__all__)
    assert set(vitrim._HOME_OF) | {"__version__"} == set(vitrim.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = vitrim.nothing
