"""The small and the middle model in plain torch, for peers that don't read Keras files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from model import THREADS, Model, Tensor

INPUTS = {
    "small": (Tensor("x", "float32", (784,)),),
    "middle": (Tensor("main_input", "int32", (100,)), Tensor("aux_input", "float32", (5,))),
}
OUTPUTS = {
    "small": (Tensor("y", "float32", (10,)),),
    "middle": (Tensor("main_output", "float32", (1,)), Tensor("aux_output", "float32", (1,))),
}


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


def in_torch(model: str) -> Model:
    """The small or the middle model."""
    torch.set_num_threads(THREADS)
    module = {"small": Dense, "middle": Headline}[model]().eval()
    inputs, outputs = INPUTS[model], OUTPUTS[model]

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        tensors = [torch.from_numpy(arrays[tensor.name]) for tensor in inputs]
        with torch.inference_mode():
            results = module(*tensors)
        return {tensor.name: result.numpy() for tensor, result in zip(outputs, results, strict=True)}

    return Model(inputs, outputs, run)
