"""Which extras a command line needs, before anything slow is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Needs = Iterator[tuple[str, str]]  # the extra, and what needs it


def _plot(group: str, option: str, words: str) -> Callable[[Any], Needs]:
    """A picture or page, where it is asked for."""

    def needs(config: Any) -> Needs:
        if getattr(getattr(config, group), option) is not None:
            yield "plot", words

    return needs


def _export(config: Any) -> Needs:
    by_ending = {".onnx": ("export", "export to ONNX"), ".xml": ("openvino", "export to OpenVINO")}
    by_name = {"onnx": ".onnx", "openvino": ".xml", "torch": "", "aotinductor": ""}
    ending = config.file.out.suffix.lower() if config.file.format is None else by_name[config.file.format]
    yield from [by_ending[ending]] if ending in by_ending else []


def _inference(config: Any) -> Needs:
    if config.run.engine == "ray":
        yield "ray", "--engine ray"
    if config.out.out.suffix.lower() == ".parquet" or getattr(config.out, "format", "") == "parquet":
        yield "data", "writing Parquet"


EXTRAS_OF: Mapping[str, Callable[[Any], Needs]] = {
    "visualize": lambda config: iter([("plot", "vitrim visualize")]),
    "diagnose": _plot("out", "out", "vitrim diagnose --out"),
    "compare": _plot("more", "out", "vitrim compare --out"),
    "benchmark": _plot("run", "out", "vitrim benchmark --out"),
    "tune": _plot("search", "picture", "vitrim tune --picture"),
    "finetune": lambda config: iter([("train", "vitrim finetune")]),
    "playground": lambda config: iter([("playground", "vitrim playground")]),
    "demo": lambda config: iter([("demo", "vitrim demo")]),
    "export": _export,
    "predict": _inference,
    "embed": _inference,
}


def each_extra(require: Callable[[str, str], None], config: Any) -> None:
    """Call `require` for each extra that a command line needs.

    Example:
        >>> from types import SimpleNamespace
        >>> each_extra(print, SimpleNamespace(command="finetune"))
        train vitrim finetune
    """
    for extra, what in EXTRAS_OF.get(config.command, lambda config: iter(()))(config):
        require(extra, what)
