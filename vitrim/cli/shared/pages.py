"""Words that are no command, but of which a command has a page: methods and recipes."""

from __future__ import annotations

from ...common.text import nearest
from ..commands.finetune import RECIPES
from .methods_named import FILE
from .signatures import own_signatures


def pages_of(word: str) -> list[str]:
    """The commands that show what the word names; none for a word that is neither.

    Example:
        >>> pages_of("tofe")
        ['vitrim methods tofe shows that method', 'vitrim recipes tofe shows that recipe']
    """
    methods = [f"vitrim methods {word} shows that method"] if word in own_signatures() or FILE in word else []
    return methods + ([f"vitrim recipes {word} shows that recipe"] if word in RECIPES else [])


def page_near(word: str) -> str:
    """The command that shows what the word was likely meant for; empty for none.

    Example:
        >>> page_near("evti"), page_near("xyz")
        ('vitrim methods evit', '')
    """
    for command, names in (("methods", own_signatures()), ("recipes", RECIPES)):
        if near := nearest(word, names):
            return f"vitrim {command} {near[0]}"
    return ""
