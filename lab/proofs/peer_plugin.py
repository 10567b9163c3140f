"""Plugin with a layer that takes its time, as the delays of Triton's test models do."""

from __future__ import annotations

import time
from typing import Any

import torch
from layergraph.config.options import nonnegative, option
from layergraph.functional.layer import Layer
from layergraph.plugins import register_layer


@register_layer()
class Delay(Layer):
    """Its input, after some seconds."""

    seconds: float = option(nonnegative, default=1.0)

    def forward(self, run: Any, w: Any, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "meta":
            time.sleep(self.seconds)
        return x.clone()
