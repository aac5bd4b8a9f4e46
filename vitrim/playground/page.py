"""The page: where the photograph goes, what may be picked, and what each of these changes."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .answer import answer_html, message_html
from .offers import Offer
from .showing import Showing, Visit

STYLE = Path(__file__).with_name("style.css")
START = 65  # percent of the dense cost
HEADING = (
    "<h1>vitrim playground</h1><p>A photograph as a Vision Transformer sees it: with all patches, and with fewer.</p>"
)
DROP, BUDGET = "Photograph, at most 32 MB", "Budget: percent of the dense MACs"
FIRST = "Drop a photograph, or click to choose one."
FAILED = "Something went wrong here. Who runs this page finds the reason in the terminal."
KEPT = 3600  # seconds that a visitor's picture is kept in memory after the page was last used
VISITORS = 100  # whose pictures are kept; of more the one who was here longest ago must drop it again
SWEEP, OLD = 60, 300  # seconds between looks for uploads on the disk, and the age at which they are removed


def build(showing: Showing) -> Any:
    """gradio's page for these models. Every visitor has a `Visit` of their own."""
    import gradio as gr

    models = list(showing.offers)
    methods = _methods(showing.offers[models[0]], None)
    budgets: dict[str, Any] = {"value": START, **_budgets(showing.offers[models[0]], methods["value"], START)}
    with gr.Blocks(title="vitrim playground", analytics_enabled=False, delete_cache=(SWEEP, OLD)) as page:
        visit = gr.State(None, time_to_live=KEPT)
        gr.HTML(HEADING)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                file = gr.File(label=DROP, file_types=["image"], type="filepath", elem_id="photograph")
                model = gr.Dropdown(
                    models, value=models[0], label="Model", filterable=False, visible=len(models) > 1, elem_id="model"
                )
                method = gr.Dropdown(**methods, label="Method", filterable=False, elem_id="method")
                budget = gr.Slider(**budgets, maximum=100, step=1, label=BUDGET, buttons=[], elem_id="budget")
            with gr.Column(scale=3):
                shown = gr.HTML(message_html(FIRST), elem_id="shown")
        picked = [visit, model, method, budget]
        acts = _Acts(showing)
        _on(file.upload, acts.receive, [file, *picked[1:]], [visit, file, shown])
        _on(model.input, acts.choose, picked, [method, budget, shown])
        _on(method.input, acts.choose, picked, [method, budget, shown])
        _on(budget.input, acts.show, picked, shown)
    page.state_session_capacity = VISITORS
    return page.queue(max_size=VISITORS)


def _on(event: Callable[..., Any], act: Callable[..., Any], inputs: list[Any], outputs: Any) -> None:
    """One visitor is served at a time; of a slider that moves on meanwhile the last place counts."""
    limits = {"concurrency_limit": 1, "concurrency_id": "models"}
    event(act, inputs, outputs, trigger_mode="always_last", show_progress="minimal", api_visibility="private", **limits)


class _Acts:
    """What happens when a visitor does something. Mistakes are told in the place of the figures."""

    def __init__(self, showing: Showing):
        self.showing = showing

    def receive(self, file: str, model: str, method: str, percent: float) -> tuple[Visit | None, None, str]:
        """A photograph was dropped: the place for the next one is free again."""
        try:
            visit = self.showing.receive(file)
        except Exception as error:
            return None, None, _told(error)
        return visit, None, self.show(visit, model, method, percent)

    def choose(self, visit: Visit | None, model: str, method: str, percent: float) -> tuple[Any, Any, str]:
        """Another model or method was picked: what may be picked beside it."""
        import gradio as gr

        try:
            one = self.showing.offer(model)
        except ValueError as error:
            return gr.skip(), gr.skip(), _told(error)
        methods = _methods(one, method)
        budgets = _budgets(one, methods["value"], percent)
        now = self.show(visit, model, methods["value"], budgets.get("value", percent))
        return gr.Dropdown(**methods), gr.Slider(**budgets), now

    def show(self, visit: Visit | None, model: str, method: str, percent: float) -> str:
        """The figures of what is picked."""
        if visit is None:
            return message_html(FIRST)
        try:
            return answer_html(self.showing.show(visit, model, method, percent / 100))
        except Exception as error:
            return _told(error)


def _methods(one: Offer, method: str | None) -> dict[str, Any]:
    """The methods that the model runs; the one picked stays, where it is among them."""
    picked = method if method in one.choices else next(iter(one.choices))
    return {
        "choices": [(words, name) for name, words in one.choices.items()],
        "value": picked,
        "info": one.about(picked),
    }


def _budgets(one: Offer, method: str, percent: float) -> dict[str, Any]:
    """The budgets that the method can have. Where it stands is left as it is, unless it is out of reach: the visitor
    may have moved it on meanwhile."""
    if method not in one.reaches:
        return {"interactive": False, "info": "as it was saved"}
    low = math.ceil(round(100 * one.reaches[method][0], 6))
    moved = {"value": low} if percent < low else {}
    return {"minimum": low, "interactive": True, "info": f"{low} to 100 % can be had with this method", **moved}


def _told(error: Exception) -> str:
    """A mistake in words for a visitor. Ours is no business of theirs: its traceback is for who runs the page."""
    if isinstance(error, ValueError):
        return message_html(str(error))
    traceback.print_exception(error, file=sys.stderr)
    return message_html(FAILED)
