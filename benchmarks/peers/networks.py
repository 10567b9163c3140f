"""The small and the middle model in plain torch or as ONNX files, for peers that don't read Keras files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

#: Inputs of each model: name, type, shape of a row; and outputs: name, length of a row.
INPUTS = {
    "small": (("x", np.float32, (784,)),),
    "middle": (("main_input", np.int32, (100,)), ("aux_input", np.float32, (5,))),
}
OUTPUTS = {"small": (("y", 10),), "middle": (("main_output", 1), ("aux_output", 1))}


class Headline(torch.nn.Module):
    """The guide's first model: a headline as 100 words, and five numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10000, 512)
        self.lstm = torch.nn.LSTM(512, 32, batch_first=True)
        self.aux = torch.nn.Linear(32, 1)
        units = [torch.nn.Linear(37, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU()]
        self.main = torch.nn.Sequential(*units, torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def forward(self, words: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both probabilities."""
        state = self.lstm(self.embedding(words))[0][:, -1]
        main = self.main(torch.cat([state, numbers], 1))
        return torch.sigmoid(main), torch.sigmoid(self.aux(state))


class Dense(torch.nn.Module):
    """784-64-64-10."""

    def __init__(self) -> None:
        super().__init__()
        layers = [torch.nn.Linear(784, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10), torch.nn.Softmax(-1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """Probabilities."""
        return (self.layers(x),)


def network(model: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What computes a batch: arrays by name in, arrays by name out."""
    torch.set_num_threads(1)
    module = {"small": Dense, "middle": Headline}[model]().eval()

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        tensors = [torch.from_numpy(arrays[name]) for name, _, _ in INPUTS[model]]
        with torch.inference_mode():
            results = module(*tensors)
        return {name: result.numpy() for (name, _), result in zip(OUTPUTS[model], results, strict=True)}

    return run


def onnx_network(model: str, path: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """As `network`, for an ONNX file in ONNX Runtime with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        given = [arrays[name] for name, _, _ in INPUTS[model]]
        results = session.run(None, dict(zip(names, given, strict=True)))
        return {name: result for (name, _), result in zip(OUTPUTS[model], results, strict=True)}

    return run
