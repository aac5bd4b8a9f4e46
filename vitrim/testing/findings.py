"""What became of a law: asked of something, it holds, is broken, or could not be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..common.own_files import told_with_place

HOLDS, BROKEN, NOT_ASKED = "holds", "broken", "not asked"


class Broken(Exception):
    """The law does not hold; the message says what was seen."""


class NotAsked(Exception):
    """The law cannot be asked; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What became of one law.

    law:    its name, such as "keeps all"
    says:   the law in a sentence
    state:  "holds", "broken" or "not asked"
    reason: what was seen where it is broken, why it was not asked; "" where it holds
    """

    law: str
    says: str
    state: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.state:<9}  {self.law}: {self.reason or self.says}"


@dataclass(frozen=True)
class MethodReport:
    """What was found of one method, or of one stack. Printed, it is one line for each law."""

    method: str
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The laws that do not hold."""
        return tuple(finding for finding in self.findings if finding.state == BROKEN)

    def __str__(self) -> str:
        return "\n".join([self.method, *map(str, self.findings)])


def ask(law: Callable[[Any], None], subject: Any) -> Finding:
    """A law, which returns where it holds, asked of its subject. Any error that it ends in is one more way to break
    it: what is asked may be somebody else's code, whose file and line are told."""
    name, says = getattr(law, "__name__", "law").replace("_", " "), (law.__doc__ or "").strip()
    try:
        law(subject)
    except Broken as error:
        return Finding(name, says, BROKEN, str(error))
    except NotAsked as error:
        return Finding(name, says, NOT_ASKED, str(error))
    except Exception as error:
        return Finding(name, says, BROKEN, told_with_place(error))
    return Finding(name, says, HOLDS)
