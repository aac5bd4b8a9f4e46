"""What `vitrim demo` needs and nothing from the network: real digits on canvases, a trained model, a report page."""

from vitrim.demo.digits import DigitCanvases
from vitrim.demo.model import build_model, load_model
from vitrim.demo.page import Example, TableRow, grid_mask, write_page

__all__ = ["DigitCanvases", "Example", "TableRow", "build_model", "grid_mask", "load_model", "write_page"]
