"""An extension of griffe: the `name: what it is` lines of vitrim's docstrings as the lists that the site shows.

In the source they are aligned and have no heading. A paragraph of such lines becomes an "Args:" section (in a class: a
"Attributes:" section), lines that go on are joined, and "Raises ValueError for ..." stays a sentence.
"""

from __future__ import annotations

import re

import griffe

FIELD = re.compile(r"(?P<name>[a-z_][\w, ]*?):\s+(?P<text>\S.*)")
SECTIONS = re.compile(r"^(Args|Attributes|Example|Examples|Returns|Raises):\s*$", re.MULTILINE)


def as_sections(text: str, heading: str) -> str:
    """A docstring with its runs of `name: text` lines under a heading."""
    out: list[str] = []
    run: list[str] = []
    for line in [*text.splitlines(), ""]:
        field = FIELD.fullmatch(line)
        if field and field["name"].split(",")[0].isidentifier():
            run.append(f"    {field['name']}: {field['text']}")
        elif run and line.startswith(" ") and line.strip():
            run[-1] += f" {line.strip()}"
        else:
            if run:
                out += ["", f"{heading}:", *run, ""]
                run = []
            out.append(line)
    return "\n".join(out).strip()


class Fields(griffe.Extension):
    """Changes every docstring that has no sections yet."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is None or SECTIONS.search(obj.docstring.value):
            return
        heading = "Args" if obj.is_function else "Attributes"
        obj.docstring.value = as_sections(obj.docstring.value, heading)
