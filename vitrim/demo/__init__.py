"""What `vitrim demo` needs and nothing from the network: real digits on canvases, a trained model, a report page."""

from .conclusion import Outcome, conclude
from .digits import DigitCanvases
from .model import build_model, load_model
from .page import Example, Shown, TableRow, write_page

__all__ = [
    "DigitCanvases",
    "Example",
    "Outcome",
    "Shown",
    "TableRow",
    "build_model",
    "conclude",
    "load_model",
    "write_page",
]
