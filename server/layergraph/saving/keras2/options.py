"""Tables of the classes and options of Keras 3 that tf.keras 2.15 lacks."""

from __future__ import annotations

from collections.abc import Mapping

_RECURRENT = ("implementation", "use_cudnn", "seed")
_LOOKUPS = ("IntegerLookup", "StringLookup", "TextVectorization")

#: Layers that it lacks, or whose weights or options it writes in a format of its own.
ABSENT_LAYERS = frozenset(
    {
        "AdaptiveAveragePooling1D",
        "AdaptiveAveragePooling2D",
        "AdaptiveAveragePooling3D",
        "AdaptiveMaxPooling1D",
        "AdaptiveMaxPooling2D",
        "AdaptiveMaxPooling3D",
        "RMSNormalization",
        "GroupQueryAttention",
        "LayerScale",
        "Normalization",
        *_LOOKUPS,
    }
)

#: Options that it lacks. They can be left out if they have no effect.
LATER_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "RNN": (*_RECURRENT, "activity_regularizer"),
    "SimpleRNN": _RECURRENT,
    "ConvLSTM1D": _RECURRENT,
    "ConvLSTM2D": _RECURRENT,
    "ConvLSTM3D": _RECURRENT,
    "InputLayer": ("optional",),
    "ZeroPadding1D": ("data_format",),
    "Cropping1D": ("data_format",),
    "UpSampling1D": ("data_format",),
    "LayerNormalization": ("rms_scaling",),
    "MultiHeadAttention": ("flash_attention", "seed", "sliding_window", "use_gate"),
}

#: Layer -> option -> its name in 2.15.
OLD_NAMES: Mapping[str, Mapping[str, str]] = {
    "InputLayer": {"batch_shape": "batch_input_shape"},
    "LeakyReLU": {"negative_slope": "alpha"},
}

#: Activations that it has -> their name in 2.15.
ACTIVATIONS: Mapping[str, str] = {
    **{
        name: name
        for name in (
            "elu",
            "exponential",
            "gelu",
            "hard_sigmoid",
            "linear",
            "mish",
            "relu",
            "selu",
            "sigmoid",
            "softmax",
            "softplus",
            "softsign",
            "swish",
            "tanh",
        )
    },
    "silu": "swish",
}

#: Losses, optimizers and metrics that it lacks.
ABSENT_LOSSES = frozenset({"CTC", "CategoricalGeneralizedCrossEntropy", "Circle", "Dice", "Tversky"})
ABSENT_OPTIMIZERS = frozenset({"Lamb", "Muon", "ScheduleFreeAdamW"})
ABSENT_METRICS = frozenset({"ConcordanceCorrelation", "PearsonCorrelation"})
REDUCTIONS = frozenset({"sum_over_batch_size", "sum", "none"})

#: Options of optimizers that it lacks.
LATER_OPTIMIZER_OPTIONS = ("loss_scale_factor", "gradient_accumulation_steps")
#: Options of losses that it lacks.
LATER_LOSS_OPTIONS: Mapping[str, tuple[str, ...]] = {"SparseCategoricalCrossentropy": ("axis",)}
#: Options of metrics that it lacks.
LATER_METRIC_OPTIONS: Mapping[str, tuple[str, ...]] = {"SparseTopKCategoricalAccuracy": ("from_sorted_ids",)}
