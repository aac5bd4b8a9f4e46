"""The methods' names and options, read from their files without importing them: PyTorch takes seconds."""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docstring_parser

from ...common.absent import absent, absent_class
from ...common.text import first_line
from .kinds import Kind, kind_of

METHODS = Path(__file__).parents[2] / "methods"
GOOGLE = docstring_parser.DocstringStyle.GOOGLE
SOURCE = "Source: "
SHARED = ("seed",)  # options of methods that are options of every run
_PAPER = re.compile(r" \((?:Table|Fig\.|Eq\.)[^)]*\)")  # where a paper says so; not for people at a terminal
# Options annotated `Any`, because they take one number or one for each place.
_NUMBERS = {"keep": Kind(float, many=True), "at": Kind(int, many=True), "blocks": Kind(int, many=True)}


@dataclass(frozen=True)
class MethodOption:
    """An option of a method; `default` as in the signature, None: the method chooses."""

    name: str
    kind: Kind
    default: Any
    help: str


@dataclass(frozen=True)
class Signature:
    """A method as its file shows it.

    dial:    the option that budgets turn
    guided:  whether it takes scores from outside
    summary: the first paragraph of its docstring
    source:  its paper, with what the docstring says of sections and symbols; empty: not said
    """

    name: str
    cls: str
    title: str
    summary: str
    source: str
    dial: str
    guided: bool
    options: tuple[MethodOption, ...]


# In the place of a method: `vitrim.runtime.auto`.
AUTO = Signature("auto", "", "the method and the plan that measurements speak for", "", "", "macs", False, ())


@functools.cache
def own_signatures() -> dict[str, Signature]:
    """vitrim's methods by name, in the order of their list.

    Example:
        >>> list(own_signatures())[:4]
        ['evit', 'bat', 'idlevit', 'tofe']
        >>> [option.name for option in own_signatures()["evit"].options]
        ['keep', 'at', 'fuse', 'score', 'seed']
    """
    found: dict[str, Signature] = {}
    for node in ast.parse((METHODS / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and "." not in (node.module or "."):
            classes = _classes(METHODS / f"{node.module}.py")
            wanted = {alias.name for alias in node.names}
            for name, cls in classes.items():
                if name in wanted and "name" in _assigned(cls, classes):
                    signature = _signature(cls, classes)
                    found[signature.name] = signature
    return _in_words(found)


def signature_in(file: Path, cls: str) -> Signature | None:
    """The method of that class in a file; None where the file alone does not tell.

    Raises ValueError for a file that is not there, is no Python, or knows no such class.
    """
    if not file.is_file():
        raise ValueError(f"--method {file}:{cls}: {absent('file', file, 'give my_file.py:Class')}")
    try:
        classes = _classes(file)
    except (SyntaxError, UnicodeDecodeError) as error:
        where = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{file}{where} is no Python ({first_line(error).partition(' (')[0]})") from error
    node = classes.get(cls)
    if node is None and not _may_have(file, cls):
        raise ValueError(absent_class(file, cls, methods_in(file)))
    if node is None or "name" not in _assigned(node, classes) or _init(node, classes) is None:
        return None
    return _in_words({**own_signatures(), "": _signature(node, classes)})[""]


def methods_in(file: Path) -> list[str]:
    """The classes in a file that look like methods; none where it cannot be read.

    Example:
        >>> methods_in(METHODS / "tome.py")
        ['ToMe']
    """
    try:
        classes = _classes(file)
    except (OSError, SyntaxError, UnicodeDecodeError):
        return []
    return [name for name, node in classes.items() if node.bases and "name" in _assigned(node, classes)]


def _may_have(file: Path, cls: str) -> bool:
    """Whether the file may know a class that it does not define: it names it, or takes names from elsewhere."""
    text = file.read_text(encoding="utf-8")
    return bool(cls) and re.search(rf"\b{re.escape(cls)}\b|import \*|globals\(|exec\(|setattr\(", text) is not None


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _bases(node: ast.ClassDef | None, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """The class and those above it in the same file."""
    line = []
    while node is not None:
        line.append(node)
        node = next(
            (classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes), None
        )
    return line


def _assigned(node: ast.ClassDef | None, classes: dict[str, ast.ClassDef]) -> dict[str, Any]:
    """Plain values that the class body assigns, its own before those of the classes above."""
    values: dict[str, Any] = {}
    for cls in reversed(_bases(node, classes)):
        for item in cls.body:
            if isinstance(item, ast.Assign):
                values |= _pairs(item)
    return values


def _pairs(item: ast.Assign) -> dict[str, Any]:
    names, value = item.targets[0], item.value
    if isinstance(names, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(names.elts, value.elts, strict=True)
    else:
        pairs = ((names, value),)
    return {k.id: v.value for k, v in pairs if isinstance(k, ast.Name) and isinstance(v, ast.Constant)}


def _init(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> ast.FunctionDef | None:
    methods = (item for cls in _bases(node, classes) for item in cls.body if isinstance(item, ast.FunctionDef))
    return next((item for item in methods if item.name == "__init__"), None)


def _signature(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Signature:
    values, doc = _assigned(node, classes), docstring_parser.parse(ast.get_docstring(node) or "", GOOGLE)
    entries = {p.arg_name: _PAPER.sub("", " ".join((p.description or "").split())).rstrip(".") for p in doc.params}
    init = _init(node, classes)
    paragraphs = [" ".join(part.split()) for part in (ast.get_docstring(node) or node.name).split("\n\n")]
    summary = paragraphs[0]
    source = next((part.removeprefix(SOURCE) for part in paragraphs if part.startswith(SOURCE)), "")
    return Signature(
        values["name"],
        node.name,
        values.get("title", summary.rstrip(".")),
        summary,
        source,
        values.get("dial", "keep"),
        bool(values.get("guided")),
        tuple(_options(init, entries)) if init is not None else (),
    )


def _options(init: ast.FunctionDef, entries: dict[str, str]) -> list[MethodOption]:
    arguments = [*init.args.args[1:], *init.args.kwonlyargs]
    defaults = [*init.args.defaults, *init.args.kw_defaults]
    values = [None] * (len(arguments) - len(defaults)) + [_value(default) for default in defaults]
    found = []
    for argument, default in zip(arguments, values, strict=True):
        annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
        kind = _NUMBERS.get(argument.arg) if annotation in ("", "Any") else None
        found.append(
            MethodOption(argument.arg, kind or kind_of(annotation, default), default, entries.get(argument.arg, ""))
        )
    return found


def _value(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _in_words(found: dict[str, Signature]) -> dict[str, Signature]:
    """With "as for EViT" written out."""
    by_class = {s.cls: {o.name: o.help for o in s.options} for s in found.values()}

    def text(option: MethodOption) -> str:
        other = option.help.removeprefix("as for ")
        return by_class.get(other, {}).get(option.name, option.help) if other != option.help else option.help

    return {
        key: Signature(
            *(s.name, s.cls, s.title, s.summary, s.source, s.dial, s.guided),
            tuple(MethodOption(o.name, o.kind, o.default, text(o)) for o in s.options),
        )
        for key, s in found.items()
    }
