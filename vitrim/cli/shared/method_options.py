"""The methods' own options, from the signatures in `vitrim.METHODS`: a new method needs no change here."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import docstring_parser
from tyro.conf import arg

from ...methods import METHODS, Method

OTHERS = ("method", "macs", "guide", "guide_checkpoint")  # that are no options of methods
SHARED = ("seed",)  # options of methods that are options of every run
# Options annotated `Any`, because they take one number or one for each place.
_NUMBERS = {"keep": float, "at": int, "blocks": int}
GOOGLE = docstring_parser.DocstringStyle.GOOGLE


def method_options_class(several: str, keep_default: str | None = None) -> type:
    """A dataclass of `--method`, every option of every method, `--guide`, and `--macs`. Empty or None: not given.

    several:      what several values of a dial (keep rate, tokens per layer) mean to the command
    keep_default: the keep rates that it takes where none is given, if not the methods' own
    """
    members = [("method", *_named("the methods' names; vitrim methods lists them", "evit, or the saved folder's", str))]
    members += [_member(name, owners, several, keep_default) for name, owners in _owners().items()]
    guide = "timm model whose last class attention chooses the tokens instead (EViT Table 14), such as a DINO"
    members.append(("guide", Annotated[str | None, arg(help=guide, help_behavior_hint="(default: none)")], None))
    weights = arg(help="its weights", help_behavior_hint="(default: timm's own pretrained weights)")
    members.append(("guide_checkpoint", Annotated[Path | None, weights], None))
    members.append(
        ("macs", *_named("budgets: shares of the dense cost in (0, 1] to solve the dial for", "none", float))
    )
    return make_dataclass("MethodOptions", members, kw_only=True, namespace={"__doc__": "What to make it faster with."})


def given_options(config: Any) -> dict[str, Any]:
    """The methods' options that the user typed, by name; several values stay a tuple."""
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in OTHERS}
    return {name: value for name, value in values.items() if value is not None and value != ()}


def _named(text: str, default: str, kind: Any) -> tuple[Any, Any]:
    hint = arg(help=text, help_behavior_hint=f"(default: {default})")
    return Annotated[tuple[kind, ...], hint], field(default=())


def _owners() -> dict[str, list[type[Method]]]:
    owners: dict[str, list[type[Method]]] = {}
    for cls in METHODS.values():
        for name in cls.option_names():
            if name not in SHARED:
                owners.setdefault(name, []).append(cls)
    return owners


def _member(name: str, owners: list[type[Method]], several: str, keep_default: str | None) -> tuple[str, Any, Any]:
    kinds, manies = zip(*(_type_of(name, cls) for cls in owners), strict=True)
    kind: Any = float if float in kinds else kinds[0]
    many = any(manies)
    is_dial = any(cls.dial == name for cls in owners)
    text = _help(name, owners) + (f"; {several}" if is_dial else "")
    default = keep_default if name == "keep" and keep_default else _defaults(name, owners)
    hint = arg(help=text, help_behavior_hint=f"(default: {default})")
    defaults = {inspect.signature(cls).parameters[name].default for cls in owners} if kind is bool else set()
    if len(defaults) == 1:
        return name, Annotated[bool, hint], field(default=defaults.pop(), metadata={"method_flag": True})
    if many or is_dial:
        return name, Annotated[tuple[kind, ...], hint], field(default=())
    return name, Annotated[kind | None, hint], field(default=None)


def _type_of(name: str, cls: type[Method]) -> tuple[type, bool]:
    """The type of one value, and whether there may be several."""
    hint = typing.get_type_hints(cls.__init__).get(name, Any)
    parameter = inspect.signature(cls).parameters[name]
    if hint is Any and name in _NUMBERS:
        return _NUMBERS[name], True
    if hint is Any:
        hint = type(parameter.default)
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_union(hint) else (hint,)
    several = any(typing.get_origin(member) in (tuple, list, Sequence) for member in members)
    scalars = [_scalar(member) for member in members if member is not type(None)]
    # 0.7 is a number that int would refuse, so the wider type wins.
    return (float if float in scalars else scalars[0]), several


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Union


def _scalar(hint: Any) -> type:
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return hint
    return _scalar(inner[0]) if inner else hint


def _defaults(name: str, owners: list[type[Method]]) -> str:
    by_value: dict[str, list[str]] = {}
    for cls in owners:
        default = inspect.signature(cls).parameters[name].default
        by_value.setdefault("the method's own" if default is None else str(default), []).append(cls.name)
    if len(by_value) == 1:
        return next(iter(by_value))
    return ", ".join(f"{value} ({' '.join(names)})" for value, names in by_value.items())


def _help(name: str, owners: list[type[Method]]) -> str:
    """What the methods' docstrings say of the option, and whose words they are; "as for EViT" are EViT's."""
    by_text: dict[str, list[str]] = {}
    for cls in owners:
        by_text.setdefault(_text(name, cls), []).append(cls.name)
    return "; ".join(f"[{' '.join(names)}] {text}" for text, names in by_text.items())


def _text(name: str, cls: type[Method]) -> str:
    """The option's entry under `Args:` in the class's docstring."""
    entries = {p.arg_name: p.description or "" for p in docstring_parser.parse(cls.__doc__ or "", GOOGLE).params}
    text = " ".join(entries.get(name, "").split()).rstrip(".")
    other = next((m for m in METHODS.values() if m is not cls and text == f"as for {m.__name__}"), None)
    return text if other is None else _text(name, other)
