"""Signatures that a model's settings name: for clients that name one, and know the model's tensors by other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from layergraph.errors import unknown_name
from pydantic import BaseModel, ConfigDict

from layerserve_server.errors import UnknownOutputError, VersionFailedError, safe_text
from layerserve_server.inference.runner import ModelRunner, ServedModel


class SignatureSettings(BaseModel):
    """Names of inputs and outputs, each with the model's own name. Without any, they are those of an export."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}


class Signature(NamedTuple):
    """Names of inputs and outputs for requests, each with the model's own name.

    `unnamed` are the inputs that were created without a name, in the order of their creation.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    unnamed: tuple[str, ...] = ()


def signatures_of(model: ServedModel, settings: Mapping[str, SignatureSettings]) -> dict[str, Signature]:
    """Returns the signatures of a model by key: those of an export, and those of the settings, which come first."""
    inputs = [spec.name for spec in model.input_specs]
    outputs = [spec.name for spec in model.output_specs]
    found = {
        key: Signature(
            dict(zip(one.inputs, inputs, strict=True)), dict(zip(one.outputs, outputs, strict=True)), one.unnamed
        )
        for key, one in model.signatures.items()
    }
    default = next(iter(found.values()))
    for key, one in settings.items():
        renamed = set(one.inputs.values())
        # An input that the settings don't name keeps its name.
        kept = {name: own for name, own in default.inputs.items() if own not in renamed}
        unnamed = tuple(own for own in default.unnamed if own not in renamed)
        found[key] = Signature({**kept, **one.inputs}, one.outputs or default.outputs, unnamed)
    return found


def check_signatures(model: ServedModel, runner: ModelRunner, settings: Mapping[str, SignatureSettings]) -> None:
    """Raises VersionFailedError if settings name an input or output that the model doesn't have, or an input twice."""
    inputs = {spec.name for spec in model.input_specs}
    for key, one in settings.items():
        where = f"signatures.{safe_text(key, 80)}"
        for name, own in one.inputs.items():
            if own not in inputs:
                raise VersionFailedError(f"{where}.inputs.{safe_text(name, 80)}: {unknown_name('input', own, inputs)}")
        if len(set(one.inputs.values())) < len(one.inputs):
            raise VersionFailedError(f"{where}.inputs: an input has two names, expected one")
        for name, own in one.outputs.items():
            try:
                runner.plan((own,))
            except UnknownOutputError as error:
                raise VersionFailedError(f"{where}.outputs.{safe_text(name, 80)}: {error}") from error
        if len(set(one.outputs.values())) < len(one.outputs):
            raise VersionFailedError(f"{where}.outputs: an output has two names, expected one")
