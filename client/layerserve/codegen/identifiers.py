"""Python identifiers and literals for names from a server, which may be any text."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Collection, Sequence

#: Maximum length of an identifier, and of a name in a docstring.
MAX_LENGTH = 60


def variables(names: Sequence[str], kind: str, reserved: Collection[str]) -> list[str]:
    """Returns an identifier for each name, in order, all different: "Image 1" -> "image_1".

    They have small ASCII letters, digits and underscores, so that no two look or compare the same, and don't begin
    with an underscore. `kind` is the word for names of which nothing is left, with their position: "input_1".
    """
    found: list[str] = []
    for position, name in enumerate(names, start=1):
        # Capitals of words in one become words: "InputLayer" -> "input_layer".
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", _ascii(name))
        base = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:MAX_LENGTH].strip("_") or f"{kind}_{position}"
        if base[0].isdigit():
            base = f"{kind}_{base}"
        if keyword.iskeyword(base) or base in reserved:
            base += "_"
        unique, number = base, 2
        while unique in found:
            unique, number = f"{base.rstrip('_')}_{number}", number + 1
        found.append(unique)
    return found


def class_name(name: str, reserved: Collection[str]) -> str:
    """Returns an identifier for a class: "text classifier" -> "TextClassifier"."""
    words = re.findall(r"[A-Za-z0-9]+", _ascii(name))
    found = "".join(word[:1].upper() + word[1:] for word in words)[:MAX_LENGTH]
    if not found or found[0].isdigit():
        found = f"Model{found}"
    return f"{found}Model" if keyword.iskeyword(found) or found in reserved else found


def literal(text: str) -> str:
    """Returns a string literal, in ASCII, with double quotes unless single ones need fewer escapes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join(_escaped(one, quote) for one in text) + quote


def in_docstring(text: str) -> str:
    """Returns a name, in single quotes, for a docstring: ASCII, without double quotes, and shortened if it is long."""
    shown = text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 3]}..."
    # Twice: the name in the text has escapes, which are escaped in the source.
    return literal_in(shown).replace("\\", "\\\\")


def literal_in(text: str) -> str:
    """Returns a string literal with single quotes, in ASCII, without double quotes."""
    return "'" + "".join(r"\x22" if one == '"' else _escaped(one, "'") for one in text) + "'"


def _escaped(one: str, quote: str) -> str:
    if one in ("\\", quote):
        return f"\\{one}"
    return one if " " <= one <= "~" else ascii(one)[1:-1]


def _ascii(text: str) -> str:
    """Returns the ASCII letters of a text, without accents; other characters become spaces."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(one if one.isascii() else " " for one in decomposed if not unicodedata.combining(one))
