"""Optimizers by Keras's names (keras.optimizers)."""

from layergraph.optimizers import schedules
from layergraph.training.optimizers.elementwise import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Ftrl,
    Lion,
    Nadam,
    RMSprop,
    ScheduleFreeAdamW,
)
from layergraph.training.optimizers.loss_scale import LossScaleOptimizer
from layergraph.training.optimizers.multi_optimizer import MultiOptimizer, OptimizerMap
from layergraph.training.optimizers.normed import Adafactor, Lamb, Muon
from layergraph.training.optimizers.optimizer import Optimizer
from layergraph.training.optimizers.table import optimizer as get

__all__ = [
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lamb",
    "Lion",
    "LossScaleOptimizer",
    "MultiOptimizer",
    "Muon",
    "Nadam",
    "Optimizer",
    "OptimizerMap",
    "RMSprop",
    "ScheduleFreeAdamW",
    "get",
    "schedules",
]
