"""A run's process that is forked, from a process that has imported what training needs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import h5py  # noqa: F401
import layergraph.layers.table
import layergraph.ops.table
import layergraph.training.callbacks.table  # noqa: F401
import numpy as np
from layergraph import Input, Model, layers

import layerserve_server.training.process.work  # noqa: F401
from layerserve_server.inference import runner
from layerserve_server.training.program import main
from layerserve_server.training.program.forked import detach

# torch imports many modules when shapes are first inferred. That uses the meta device, which computes nothing.
_inputs = Input((1,))
Model(_inputs, layers.Dense(1)(_inputs))
runner.make_ready()


def train(folder: str, environment: Mapping[str, str]) -> None:
    """Executes the run in `folder` as `python -m layerserve_server.training.program.main` does. Ends the process."""
    detach(Path(folder), environment)
    # The random state would be the same in all forks.
    random.seed()
    np.random.seed()
    main.carry_out(Path(folder))
