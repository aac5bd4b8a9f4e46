"""What can be seen of tokens: figures and diagnostics.

Example: what a reduced model does with the patches of a photograph; in a notebook the figure shows itself.
    >>> fast = vitrim.reduce(model, "evit", keep=0.5)
    >>> vitrim.view.figure(fast, "photos/cat/0.png").savefig("cat.png")
"""

from .diagnosis.diagnosing import Diagnosis, diagnose
from .diagnostics import diversity_score, mean_cosine
from .figures import figure

__all__ = ["Diagnosis", "diagnose", "diversity_score", "figure", "mean_cosine"]
