"""The list of supported layers and operations in the README, made from the tables.

`python -m layergraph.listing README.md` writes it between its two marks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from layergraph.layers.table import LAYERS
from layergraph.ops.table import OPERATIONS

BEGIN, END = "<!-- layers: made by `make layers` -->\n", "<!-- /layers -->"

#: First word of a module's name -> heading. What is not here goes under its own word.
HEADINGS = {
    "input": "Core",
    "core": "Core",
    "einsum": "Core",
    "embedding": "Core",
    "activations": "Activations",
    "locally": "Convolution",
    "convolutional": "Convolution",
    "pooling": "Pooling",
    "up": "Reshaping",
    "reshaping": "Reshaping",
    "lookup": "Categorical and text preprocessing",
    "categorical": "Categorical and text preprocessing",
    "text": "Categorical and text preprocessing",
    "image": "Image and audio preprocessing",
    "images": "Image and audio preprocessing",
    "augmentation": "Image and audio preprocessing",
    "audio": "Image and audio preprocessing",
    "pipeline": "Image and audio preprocessing",
    "applications": "Of keras.applications",
    "regularization": "Noise and regularisation",
    "keras1": "Of Keras 1",
}


def listing() -> str:
    """A Markdown table: family, layers."""
    families: dict[str, list[str]] = {}
    for name, layer in LAYERS.items():
        word = layer.__module__.rpartition(".")[2].partition("_")[0]
        families.setdefault(HEADINGS.get(word, word.capitalize()), []).append(name)
    families["Operations (`keras.ops`, operators)"] = list(OPERATIONS)
    lines = ["| family | classes |", "|---|---|"]
    lines += [f"| {family} | {', '.join(sorted(names))} |" for family, names in families.items()]
    return "\n".join(lines) + "\n"


def with_listing(text: str) -> str:
    """A README's text with the list as it is now. Raises ValueError if the marks are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected the marks {BEGIN.strip()!r} and {END!r}")
    return before + begin + listing() + end + after


def main(path: Path) -> None:
    """Writes the list into the file."""
    path.write_text(with_listing(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
