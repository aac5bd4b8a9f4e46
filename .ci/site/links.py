"""A hook of mkdocs: links from docs/ to files of the checkout that are not pages.

On a page they read as names of files: the site holds docs/ alone. A link to a file that is not there is a warning, and
warnings stop the build.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s]+)(?:#[^)\s]*)?\)")
log = logging.getLogger("mkdocs.hooks.links")


def on_page_markdown(markdown: str, *, page, config, **_) -> str:
    """The page's text without links that leave docs/."""
    docs = Path(config.docs_dir).resolve()
    folder = (docs / page.file.src_uri).parent

    def named(link: re.Match) -> str:
        if "://" in link["target"]:
            return link[0]
        target = Path(os.path.normpath(folder / link["target"]))
        if target.is_relative_to(docs):
            return link[0]
        if not target.exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, link["target"])
        return link["text"]

    return LINK.sub(named, markdown)
