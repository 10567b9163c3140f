"""The Model class: a graph that runs, trains, and is saved to files."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from typing_extensions import Self

from layergraph.archive.limits import DEFAULT_LIMITS
from layergraph.errors import ConfigError
from layergraph.execution.plan import Plan
from layergraph.execution.tuning.result import Choice
from layergraph.exporting.signature import Signature, signatures_of
from layergraph.functional.nest import Structure
from layergraph.models.reading import described_model
from layergraph.plugins import custom_object_scope
from layergraph.training.trainer import Trainer

if TYPE_CHECKING:
    from layergraph.models.export import Exported
    from layergraph.saving.formats import Format
    from layergraph.stepping.stepper import Stepper

#: Maximum number of cached plans, for different choices of outputs.
MAX_PLANS = 64


class Model(Trainer):
    """A model from input tensors to output tensors (keras.Model in its functional form).

    inputs, outputs   tensors, or any nesting of them in lists and dicts; inputs need not be created by `Input`
    name              default `functional`, `functional_1`, ...

    Raises GraphError if the outputs don't depend on the inputs alone.
    """

    def __init__(self, inputs: Structure, outputs: Structure, name: str | None = None, trainable: bool = True) -> None:
        self._plans: dict[tuple[str, ...] | None, Plan] = {}
        self._plans_lock = threading.Lock()
        super().__init__(inputs, outputs, name, trainable)

    def _set_graph(self, inputs: Structure, outputs: Structure) -> None:
        super()._set_graph(inputs, outputs)
        self._plans = {}

    def forget_plans(self) -> None:
        """Drops what was inferred for calls of the model, and its plans, after a change of its layers."""
        super().forget_plans()
        self._plans = {}

    def plan(self, outputs: Sequence[str] | None = None) -> Plan:
        """Returns the plan for outputs by name, by default all outputs. Raises UnknownTensorError.

        A name is an output of the model or any tensor of the graph: `layer`, `layer:node`, `layer:node:tensor`, and
        `outer/inner` inside a nested model.
        """
        key = None if outputs is None else tuple(outputs)
        if key == tuple(self.output_names) and self.plan().needs_all_inputs:
            key = None
        with self._plans_lock:
            if key not in self._plans:
                if len(self._plans) >= MAX_PLANS:
                    self._plans.pop(next(k for k in self._plans if k is not None))
                self._plans[key] = Plan(self, outputs)
            return self._plans[key]

    def to(self, device: str | torch.device) -> Self:
        """Moves the weights to a torch device ("cuda"), on which training and evaluation then run, and returns itself.

        Must be called before the model runs. Data comes from CPU memory, and files are written from there.
        """
        for weight in self.weights:
            weight.bind(weight.value.to(device))
        self._plans = {}
        return self

    def stepper(self) -> Stepper:
        """Returns an object that computes sequences step by step, with states kept between the steps (see `Stepper`).

        For models of recurrent layers and causal convolutions, `stateful` or not, whose signature may fix the number of
        rows and timesteps. Raises NotSteppableError, with the layer and the reason, for a model whose outputs for a
        whole sequence aren't those of its steps: both are compared.
        """
        # Imported on first use: few models are stepped.
        from layergraph.stepping.stepper import stepper_of

        return stepper_of(self, self.plan(), Model)

    @property
    def engines(self) -> Sequence[Choice]:
        """The engines by row count, as `plan().tune()` has chosen them; empty for eager torch."""
        return self.plan().engines

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The names of inputs and outputs in exports to TensorFlow, by the signature's key."""
        return signatures_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the model as `save` writes it: with its weights, compile arguments and optimizer state."""
        # Imported on first use, as the modules for saving are.
        from layergraph.models.pickling import pickled

        return pickled(self)

    def get_config(self) -> dict[str, Any]:
        """The graph in Keras 3's format."""
        # Imported on first use: the modules for saving take a tenth of the time of `import layergraph`.
        from layergraph.saving.graph_config import graph_config

        return graph_config(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """Creates a model, with new weights, from a `get_config`, ours or Keras's (keras.Model.from_config).

        `custom_objects` are names -> classes of layers and functions, in addition to registered ones. Raises
        errors.ModelFileError for a model that can't be created, ConfigError for values that JSON can't represent.
        """
        kind = "Functional" if "input_layers" in config else "Sequential"
        try:
            # Tuples become lists, as in files.
            described = json.loads(json.dumps({"class_name": kind, "config": config}))
        except (TypeError, ValueError) as wrong:
            raise ConfigError(f"from_config: got a config that JSON can't hold: {wrong}") from wrong
        with custom_object_scope(custom_objects or {}):
            return cast("Self", described_model(described, DEFAULT_LIMITS))

    def to_json(self, **kwargs: Any) -> str:
        """Returns the architecture and the compile arguments as JSON text (keras.Model.to_json).

        `kwargs` are those of json.dumps. `models.model_from_json` loads the text, here and in Keras. Raises ConfigError
        if Keras 3's format can't represent the model.
        """
        from layergraph.saving.model_file import keras_config
        from layergraph.saving.sharing import WrittenModel

        return json.dumps(keras_config(self, WrittenModel(self)), **kwargs)

    def save(self, path: str | Path, generation: int | None = None, *, overwrite: bool = True) -> None:
        """Saves the model as a `.keras` or `.h5` file that stock Keras loads (keras.Model.save).

        `generation` is the generation of Keras to save for, 2 or 3. By default a model from Keras 2 is saved for the
        release that it came from, but as a `.keras` only if it came in one; all others are saved for Keras 3.

        Raises ConfigError for another suffix, and if such a file can't store the model; FileExistsError without
        `overwrite` if there is a file. Keras asks the user then.
        """
        from layergraph.saving import model_file

        if not overwrite and Path(path).exists():
            raise FileExistsError(f"save: '{path}' exists; expected a new path, or overwrite=True")
        model_file.save_model(self, Path(path), generation)

    def export(
        self,
        filepath: str | Path,
        format: str | None = None,
        verbose: bool | None = None,
        input_signature: Any = None,
        *,
        opset_version: int | None = None,
        tolerance: float | None = None,
        overwrite: bool = True,
        examples: Sequence[Mapping[str, Any]] = (),
    ) -> Exported:
        """Exports the model for other software, and compares the file's numbers with the model's (keras.Model.export).

        format          "onnx", "torch" (torch.export's `.pt2`), "keras" or "h5"; by default what the suffix stands for
        verbose         whether to print what was written
        opset_version   ONNX operator set, 17 to 20; default 17
        tolerance       largest difference of an output, relative to its largest value; default 1e-5, for models that
                        compute in 16 bits more
        examples        inputs by name that are compared in addition to random ones

        Axes that the model leaves open stay open. `input_signature` must be None. The file appears only when it is
        complete and right. Raises ConfigError for other arguments, ExportError for a model that the format can't
        represent, with the layer, or whose file computes something else; FileExistsError without `overwrite`.
        """
        # Imported on first use, as the modules for saving are.
        from layergraph.models.export import export_model

        if input_signature is not None:
            raise ConfigError("export: got an input_signature, expected None: open axes stay open")
        exported = export_model(
            self,
            self.plan(),
            Path(filepath),
            format,
            opset=opset_version,
            tolerance=tolerance,
            overwrite=overwrite,
            examples=examples,
        )
        if verbose:
            print(exported.text())
        return exported

    def save_weights(self, path: str | Path) -> None:
        """Saves the weights and the optimizer's state as a `.weights.h5` file of Keras 3."""
        from layergraph.saving.model_file import save_weights

        save_weights(self, Path(path))

    def saved_format(self, name: str = "") -> Format:
        """The format with a name ("keras3", "keras3_h5", "keras2", "keras2_h5"), or the one that the model came in.

        Raises ConfigError for another name, and if the format can't store the model: the message has what it can't
        store, and which formats can store it.
        """
        from layergraph.saving.formats import chosen_format

        return chosen_format(self, name)


def save_model(model: Model, filepath: str | Path, overwrite: bool = True, *, generation: int | None = None) -> None:
    """Saves a model (keras.models.save_model). See `Model.save`."""
    model.save(filepath, generation, overwrite=overwrite)
