"""Everything found wrong in one file, so that it can be told at once."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Texts kept; the error shows fewer. A file can be made to have millions of faults.
MAX_KEPT = 1000


@dataclass(slots=True)
class Diagnostics:
    """A list of texts, each once, in the order found."""

    texts: dict[str, None] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Notes one."""
        if len(self.texts) < MAX_KEPT:
            self.texts[text] = None

    def __bool__(self) -> bool:
        return bool(self.texts)


def brief_name(name: object) -> str:
    """A name from a file, for a message: quoted, escaped and cut."""
    text = str(name) if isinstance(name, str) else repr(name)
    shown = text if len(text) <= 80 else text[:77] + "..."
    return repr(shown.encode("utf-8", "backslashreplace").decode("utf-8"))
