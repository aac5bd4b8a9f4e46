"""What `vitrim demo` needs and nothing from the network: real digits on canvases, a trained model, a report page."""

from .digits import DigitCanvases
from .model import build_model, load_model
from .page import Example, TableRow, grid_mask, write_page

__all__ = ["DigitCanvases", "Example", "TableRow", "build_model", "grid_mask", "load_model", "write_page"]
