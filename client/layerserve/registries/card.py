"""The card of a model that is pushed: signature, golden numbers and digest, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from layerserve.models.info import ModelInfo
from layerserve.registries.golden import ATOL, RTOL, GoldenNumbers
from layerserve.values.tables import shape_text

#: What the hub reads of a card.
_HEAD = "---\nlibrary_name: keras\ntags:\n- keras\n- layerserve\n---\n"
#: What is replaced when a card is written again.
_BEGIN, _END = "<!-- layerserve push: begin -->", "<!-- layerserve push: end -->"
#: Number of values of an output that are shown.
VALUES = 8


@dataclass(frozen=True)
class Card:
    """What the card of a version says.

    `sha256` is the digest of the model file on the server. `files` has the sizes, in bytes, and digests of the files in
    the registry by name.
    """

    model: ModelInfo
    sha256: str
    files: Mapping[str, tuple[int, str]]
    golden: GoldenNumbers
    #: Address in the registry, from which it is served.
    address: str

    def text(self) -> str:
        """Returns the card."""
        return "\n".join(self._lines()) + "\n"

    def merged(self, before: str) -> str:
        """Returns the file `README.md` with the card, in place of an earlier one. The rest of it stays."""
        own = f"{_BEGIN}\n{self.text()}{_END}\n"
        if not before.strip():
            return _HEAD + own
        start, end = before.find(_BEGIN), before.find(_END)
        if 0 <= start < end:
            return before[:start] + own + before[end + len(_END) :].removeprefix("\n")
        return f"{before.rstrip()}\n\n{own}"

    def _lines(self) -> Iterator[str]:
        model = self.model
        yield f"# {_plain(model.name)}"
        yield ""
        keras = f" of Keras {_plain(model.keras_version)}" if model.keras_version else ""
        yield f"A model{keras} with {model.parameter_count:,} parameters: version {model.version} of its server,"
        yield f"whose model file has the SHA-256 digest `{self.sha256}`."
        yield ""
        yield from ("| | name | shape | dtype |", "|---|---|---|---|")
        for kind, specs in (("input", model.inputs), ("output", model.outputs)):
            for spec in specs:
                yield f"| {kind} | {_code(spec.name)} | {shape_text(spec.shape)} | {spec.dtype} |"
        yield ""
        yield "## Golden numbers"
        yield ""
        if self.golden.missing:
            yield f"None: {_plain(self.golden.missing)}"
        else:
            yield "The `.npz` file has inputs, and the outputs that the server has computed for them. A server of it"
            yield f"must compute the same, up to {ATOL:g} + {RTOL:g} x |expected|. The first values of each output:"
            yield ""
            yield from ("| output | shape | values |", "|---|---|---|")
            for name, array in self.golden.outputs.items():
                values = ", ".join(f"{value:.7g}" for value in array.reshape(-1)[:VALUES].tolist())
                yield f"| {_code(name)} | {shape_text(array.shape)} | {values}{', ...' * (array.size > VALUES)} |"
        yield ""
        yield "## Files"
        yield ""
        yield from ("| file | bytes | SHA-256 |", "|---|---|---|")
        for name, (size, digest) in self.files.items():
            yield f"| {_code(name)} | {size:,} | `{digest}` |"
        yield ""
        yield "## Use"
        yield ""
        yield from ("```sh", f"layerserve serve {self.address}", "```")


def _plain(text: str) -> str:
    """A text that a file or server has chosen, without a meaning in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return "`" + re.sub(r"[`|\s]+", " ", text) + "`"
