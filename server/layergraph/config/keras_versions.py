"""Differences between the configs of Keras's generations, as tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

from layergraph.archive import json_text
from layergraph.config import keras1, keras2, tfjs
from layergraph.config.keras2_releases import MULTI_BACKEND as _MULTI_BACKEND_RULES
from layergraph.config.keras2_releases import tf_keras_rules
from layergraph.config.training_rules import (
    EARLY_RULES,
    FIRST_RULES,
    KERAS2_RULES,
    KERAS3_RULES,
    MULTI_BACKEND_RULES,
    TrainingRules,
    early_training,
    tf_keras_training,
)

#: Any value, in a table of ignored keys.
ANY: Final = object()


@dataclass(frozen=True, slots=True)
class Generation:
    """How configs of one generation differ from the canonical ones, which are Keras 3's.

    name             name in error texts
    major            major version, which determines a graph's form
    ignored          config keys without effect here, with the values for which that holds (or ANY)
    classes          class name -> canonical class name
    renamed          class name ("*" for every class) -> old key -> canonical key
    defaults         class name -> this generation's defaults of options that a config may lack
    activations      activation -> canonical activation
    rules            class name ("*" for every class) -> options that make a layer compute as in this generation
    masks_left_out   whether `mask=None` in a call suppresses the inputs' masks
    minor            minor version, for tf.keras
    training         what training does as in this generation
    adapt            further changes of a config with renamed keys, (class name, config)
    """

    name: str
    major: int
    ignored: Mapping[str, object]
    classes: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    masks_left_out: bool = False
    minor: int = 0
    training: TrainingRules = KERAS3_RULES
    adapt: Callable[[str, dict[str, Any]], None] = lambda kind, config: None

    def ignores(self, key: str, value: Any) -> bool:
        """Whether an option that no layer here has can be ignored."""
        harmless = self.ignored.get(key, ())
        return harmless is ANY or (isinstance(harmless, tuple) and any(value is h or value == h for h in harmless))


#: Key of a layer's object for options that only layergraph has; Keras ignores it.
OWN_KEY: Final = json_text.OWN_KEY
#: Within OWN_KEY: the node index of a layer's first call in the graph; 0 if absent.
FIRST_CALL: Final = "first_call"
#: Within OWN_KEY: the name of an activation that Keras 3 lacks and composes of layers.
ACTIVATION: Final = "activation"
#: Options that make a layer compute as in an earlier generation of Keras.
OWN_OPTIONS: Final = frozenset(
    {"bin_rule", "cast_rule", "crop_rule", "input_rule", "mask_rule", "mask_use", "image_rule", "step_rule"}
)
#: Value of these options for Keras 3's behaviour, which files may omit.
KERAS3_RULE: Final = "keras3"

_NO: Final = (False, None)

#: Keys of all generations that affect how results are computed, but not the results.
_WITHOUT_EFFECT: Mapping[str, object] = {
    "implementation": ANY,
    "unroll": ANY,
    "use_cudnn": ANY,
    "synchronized": ANY,
    "fused": ANY,
    "seed": ANY,
    "autocast": ANY,
    "dynamic": _NO,
    "sparse": _NO,
    "ragged": _NO,
    "stateful": _NO,
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "activity_regularizer": (None,),
    "batch_input_shape": ANY,
    "batch_size": ANY,
    "input_length": ANY,
    "input_dtype": ANY,
    "zero_output_for_mask": _NO,
    "input_rule": ANY,
    "mask_rule": ANY,
    "mask_use": ANY,
}

KERAS3 = Generation(
    name="Keras 3",
    major=3,
    ignored={
        **_WITHOUT_EFFECT,
        "optional": _NO,
        # The dtype policy determines whether a layer is quantized, not the config it was quantized with.
        "quantization_config": ANY,
        "gptq_unpacked_column_size": ANY,
        # LoRA weights are merged into the kernels: by Keras in a `.keras`, by `saving.lora` from an `.h5`.
        "lora_rank": ANY,
        "lora_alpha": ANY,
        "build_input_shape": ANY,
        # In random layers that don't depend on values, in the first releases.
        "value_range": ANY,
        # In Bincount.
        "weights": (None,),
    },
    # A `.h5` has the Python class name, not the layer's public name.
    classes={"GroupedQueryAttention": "GroupQueryAttention", "CtcLoss": "CTCLoss"},
    renamed={
        "MultiHot": {"num_tokens": "num_classes"},
        "Threshold": {"threshold_value": "threshold", "value": "default_value"},
    },
)

_MERGING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot")
_ATTENTION = ("MultiHeadAttention", "GroupQueryAttention", "Softmax")
_LOOPS = ("SimpleRNN", "LSTM", "GRU", "RNN")
_RECURRENT = (*_LOOPS, "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
#: hard_sigmoid has slope 1/5 in Keras 1 and 2, 1/6 in Keras 3.
_ACTIVATIONS = {"hard_sigmoid": "keras2_hard_sigmoid"}
#: Up to Keras 3.14, a mask of numbers weighs what later releases keep or leave out.
_WEIGHTS: Final = {
    name: {"mask_rule": "weights"}
    for name in ("AdditiveAttention", "Attention", "BatchNormalization", "GlobalAveragePooling1D")
}
#: Keras 1 and 2 combine masks with AND, Keras 3 with OR; Keras 3 drops the mask if states are passed as tensors. In
#: Keras 1 and 2, a query with no key to attend to attends to all, images are cropped where Keras 3 passes them
#: unchanged, and integer images become floating point. TimeDistributed treats all timesteps as one batch, where Keras 3
#: treats each as a batch. SpectralNormalization doesn't cast its outputs to the inputs' type. Volumes may be cropped to
#: nothing.
_RULES = {
    "Cropping3D": {"crop_rule": "keras2"},
    "TimeDistributed": {"step_rule": "keras2"},
    "SpectralNormalization": {"cast_rule": "keras2"},
    **{name: {"mask_rule": "keras2"} for name in (*_MERGING, *_RECURRENT, *_ATTENTION)},
    **_WEIGHTS,
    "MultiHeadAttention": {"mask_rule": "keras2", "input_rule": "keras2"},
    **{name: {"image_rule": "keras2"} for name in ("RandomCrop", "Resizing")},
}
#: Up to 3.7, MultiHeadAttention leaves its inputs their masks, and uses the argument `query_mask`.
_KEPT: Final = {"MultiHeadAttention": {"input_rule": "keras2"}}


def _joined(*parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rules of several tables together; later ones go before earlier ones."""
    rules: dict[str, Mapping[str, Any]] = {}
    for part in parts:
        rules.update({name: {**rules.get(name, {}), **own} for name, own in part.items()})
    return rules


_NO_KEYS: Final = {name: {"mask_rule": "keras2"} for name in _ATTENTION}
KERAS3_UP_TO_14 = replace(KERAS3, rules=_WEIGHTS)
#: From 3.5 to 3.13, layers lose the masks of tensors that they cast.
KERAS3_UP_TO_13 = replace(KERAS3, rules={"*": {"mask_use": "uncast"}, **_WEIGHTS})
#: Up to 3.12, Softmax adds masks of numbers to its inputs.
KERAS3_UP_TO_12 = replace(
    KERAS3_UP_TO_13, rules={**KERAS3_UP_TO_13.rules, **{name: {"mask_rule": "keras3.12"} for name in _ATTENTION}}
)
#: Up to 3.10, layers pass on their input's own mask, not one that is given as argument.
KERAS3_UP_TO_10 = replace(KERAS3_UP_TO_12, rules={**KERAS3_UP_TO_12.rules, "*": {"mask_use": "own_uncast"}})
#: Up to 3.9, a query with no key to attend to attends to all, as in Keras 2.
KERAS3_UP_TO_9 = replace(
    KERAS3_UP_TO_10,
    rules={
        **KERAS3_UP_TO_10.rules,
        **{name: {"mask_rule": "keras3.9"} for name in _ATTENTION},
        "Softmax": {"mask_rule": "keras2"},
    },
)
KERAS3_UP_TO_7 = replace(KERAS3_UP_TO_9, rules=_joined(KERAS3_UP_TO_9.rules, _KEPT))
#: Up to 3.6, attention adds masks of numbers to its scores, as in Keras 2.
KERAS3_UP_TO_6 = replace(KERAS3_UP_TO_7, rules=_joined(KERAS3_UP_TO_7.rules, _NO_KEYS))
KERAS3_UP_TO_4 = replace(KERAS3_UP_TO_6, rules={**KERAS3_UP_TO_6.rules, "*": {"mask_use": "own"}})
#: Up to 3.3, masks of tensors in a list are dropped.
KERAS3_UP_TO_3 = replace(
    KERAS3_UP_TO_4, rules={**KERAS3_UP_TO_4.rules, **{name: {"mask_rule": "none"} for name in _MERGING}}
)

#: Keras 2.0 to 2.3 and tf.keras 2.x.
KERAS2 = Generation(
    name="Keras 2",
    major=2,
    ignored={
        **_WITHOUT_EFFECT,
        # tf.keras writes options of convolutions for transposed, depthwise and separable ones, which lack them.
        "groups": (1,),
        "kernel_initializer": ANY,
        "kernel_regularizer": ANY,
        "kernel_constraint": ANY,
        # And those of Dropout for spatial dropout.
        "noise_shape": (None,),
        # Shapes that an attention layer's projections were built for.
        "query_shape": ANY,
        "key_shape": ANY,
        "value_shape": ANY,
        # Which generator layers of tf_keras 2.21 take random numbers from.
        "rng_type": ANY,
    },
    classes={
        "Model": "Functional",
        "Convolution1D": "Conv1D",
        "Convolution2D": "Conv2D",
        "Convolution3D": "Conv3D",
        "Convolution1DTranspose": "Conv1DTranspose",
        "Convolution2DTranspose": "Conv2DTranspose",
        "Convolution3DTranspose": "Conv3DTranspose",
        "Deconvolution2D": "Conv2DTranspose",
        "Deconvolution3D": "Conv3DTranspose",
        "Deconv2D": "Conv2DTranspose",
        "Deconv3D": "Conv3DTranspose",
        "SeparableConvolution1D": "SeparableConv1D",
        "SeparableConvolution2D": "SeparableConv2D",
        "DepthwiseConvolution1D": "DepthwiseConv1D",
        "DepthwiseConvolution2D": "DepthwiseConv2D",
        "MaxPool1D": "MaxPooling1D",
        "MaxPool2D": "MaxPooling2D",
        "MaxPool3D": "MaxPooling3D",
        "AvgPool1D": "AveragePooling1D",
        "AvgPool2D": "AveragePooling2D",
        "AvgPool3D": "AveragePooling3D",
        "GlobalMaxPool1D": "GlobalMaxPooling1D",
        "GlobalMaxPool2D": "GlobalMaxPooling2D",
        "GlobalMaxPool3D": "GlobalMaxPooling3D",
        "GlobalAvgPool1D": "GlobalAveragePooling1D",
        "GlobalAvgPool2D": "GlobalAveragePooling2D",
        "GlobalAvgPool3D": "GlobalAveragePooling3D",
        "BatchNormalizationV1": "BatchNormalization",
        "BatchNormalizationV2": "BatchNormalization",
        "SyncBatchNormalization": "BatchNormalization",
        "CuDNNLSTM": "LSTM",
        "CuDNNGRU": "GRU",
        "LSTMV1": "LSTM",
        "LSTMV2": "LSTM",
        "GRUV1": "GRU",
        "GRUV2": "GRU",
        # TensorFlow 1.13 and previews of 2.0.
        "UnifiedLSTM": "LSTM",
        "UnifiedGRU": "GRU",
    },
    renamed={
        "LeakyReLU": {"alpha": "negative_slope"},
        "InputLayer": {"batch_input_shape": "batch_shape"},
        # TensorFlow 2.3.
        "CategoryEncoding": {"max_tokens": "num_tokens"},
        "Discretization": {"bins": "bin_boundaries"},
        "IntegerLookup": {"max_values": "max_tokens", "mask_value": "mask_token", "oov_value": "oov_token"},
    },
    # Options with other defaults in Keras 3, which early configs may lack.
    defaults={
        "GRU": {"reset_after": False},
        "GRUCell": {"reset_after": False},
        "CuDNNGRU": {"reset_after": True},
        "LeakyReLU": {"negative_slope": 0.3},
        **{f"ConvLSTM{rank}D": {"recurrent_activation": "keras2_hard_sigmoid"} for rank in (1, 2, 3)},
    },
    activations=_ACTIVATIONS,
    rules=_joined(_RULES, tf_keras_rules(15)),
    masks_left_out=True,
    minor=15,
    training=KERAS2_RULES,
    adapt=keras2.adapt,
)


@cache
def tf_keras(minor: int) -> Generation:
    """tf.keras 2.`minor`, as in `keras_version`: 2 for TensorFlow 1.13 to 2.0, 3 for 2.1 and 2.2, 4 for 2.3 and 2.4."""
    if minor >= KERAS2.minor:
        return KERAS2
    return replace(KERAS2, minor=minor, rules=_joined(_RULES, tf_keras_rules(minor)), training=tf_keras_training(minor))


#: Layers of Keras 1 that multi-backend Keras 2 still has, with their options unchanged.
_OF_KERAS1: Final = ("MaxoutDense", "Highway")


def _adapt_multi_backend(kind: str, config: dict[str, Any]) -> None:
    (keras1 if kind in _OF_KERAS1 else keras2).adapt(kind, config)


#: Keras 2.0 to 2.3 on several backends.
MULTI_BACKEND = replace(
    KERAS2,
    name="multi-backend Keras 2",
    renamed={
        **KERAS2.renamed,
        **{name: {**keras1.RENAMED["*"], **keras1.RENAMED.get(name, {})} for name in _OF_KERAS1},
    },
    masks_left_out=False,
    minor=0,
    rules=_joined(_RULES, _MULTI_BACKEND_RULES),
    training=MULTI_BACKEND_RULES,
    adapt=_adapt_multi_backend,
)

#: Keras 2.0 to 2.2 on TensorFlow.
MULTI_BACKEND_UP_TO_2 = replace(
    MULTI_BACKEND,
    training=EARLY_RULES,
    rules=_joined(MULTI_BACKEND.rules, {name: {"mask_rule": "start"} for name in _LOOPS}),
)

#: Files written by TensorFlow.js itself; its converter writes the version of the source's Keras.
TENSORFLOW_JS = replace(MULTI_BACKEND, name="TensorFlow.js", training=EARLY_RULES, adapt=tfjs.adapt)

#: Keras 1.0 to 1.2.
KERAS1 = Generation(
    name="Keras 1",
    major=1,
    ignored={**KERAS2.ignored, **keras1.IGNORED},
    classes=keras1.CLASSES,
    renamed=keras1.RENAMED,
    defaults={"GRU": {"reset_after": False}, "LeakyReLU": {"negative_slope": 0.3}},
    activations=_ACTIVATIONS,
    rules=MULTI_BACKEND.rules,
    training=FIRST_RULES,
    adapt=keras1.adapt,
)


#: Multi-backend releases; tf.keras of that time writes "2.3.0-tf".
_MULTI_BACKEND = re.compile(r"2\.[0-3]\.\d{1,4}")
_TF_KERAS = re.compile(r"2\.(\d{1,4})(?!\d)")
_KERAS3 = re.compile(r"3\.(\d{1,4})(?!\d)")
_LATEST = 9999
#: Minor version up to which a generation of Keras 3 holds.
_EARLY_KERAS3 = (
    (3, KERAS3_UP_TO_3),
    (4, KERAS3_UP_TO_4),
    (6, KERAS3_UP_TO_6),
    (7, KERAS3_UP_TO_7),
    (9, KERAS3_UP_TO_9),
    (10, KERAS3_UP_TO_10),
    (12, KERAS3_UP_TO_12),
    (13, KERAS3_UP_TO_13),
    (14, KERAS3_UP_TO_14),
)


def generation_of(keras_version: str | None, config: Mapping[str, Any], backend: str | None = None) -> Generation:
    """Returns the generation that wrote a config; without a version it is inferred from the config's form.

    backend   multi-backend Keras's, which matters up to 2.2
    """
    if keras_version is not None:
        version = keras_version.strip()
        if version.startswith("tfjs"):
            return TENSORFLOW_JS
        if version.startswith(("0.", "1.")):
            return KERAS1
        if _MULTI_BACKEND.fullmatch(version):
            if version.startswith("2.3"):
                return MULTI_BACKEND
            early = MULTI_BACKEND_UP_TO_2 if backend == "tensorflow" else MULTI_BACKEND
            return replace(early, training=early_training(*map(int, version.split(".")[1:])))
        if version.startswith("2."):
            release = _TF_KERAS.match(version)
            return tf_keras(int(release[1])) if release else KERAS2
        release = _KERAS3.match(version)
        minor = int(release[1]) if release else _LATEST
        return next((early for last, early in _EARLY_KERAS3 if minor <= last), KERAS3)
    items = _layers_of(config)
    if any(keras1.OPTIONS & layer["config"].keys() for layer in items if isinstance(layer.get("config"), Mapping)):
        return KERAS1
    calls = _calls_of_keras3(items)
    return _release_of(items) if calls or (calls is None and any("module" in layer for layer in items)) else KERAS2


def version_of_config(keras_version: str | None, config: Mapping[str, Any]) -> str | None:
    """Returns the version of the Keras that wrote a config; None if unknown.

    `keras_version` is the file's: that of the weights for a `model.json` of Keras 3, which has none, beside weights of
    an earlier Keras.
    """
    earlier = keras_version is not None and keras_version.startswith(("0.", "1.", "2."))
    return None if earlier and _calls_of_keras3(_layers_of(config)) else keras_version


def _calls_of_keras3(items: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether layers' calls have Keras 3's form; None if there are none."""
    nodes = (layer.get("inbound_nodes") for layer in items)
    first = next((found[0] for found in nodes if isinstance(found, list) and found), None)
    return None if first is None else isinstance(first, Mapping) and "args" in first


def _layers_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, Mapping) else inner
    return [layer for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []


def _release_of(items: Sequence[Mapping[str, Any]]) -> Generation:
    """Infers the Keras 3 release from its layers' configs: a `model.json` has no version."""
    # Models have no dtype.
    waiting, configs = list(items), []
    while waiting:
        layer = waiting.pop()
        inner = _layers_of(layer)
        waiting += inner
        if not inner and isinstance(layer.get("config"), Mapping):
            configs.append((layer.get("class_name") == "InputLayer", layer["config"]))
    # Layers have dtype policies since 3.4, inputs have `ragged` since 3.10.
    if any(isinstance(known.get("dtype"), str) and "trainable" in known for is_input, known in configs if not is_input):
        return KERAS3_UP_TO_3
    return KERAS3_UP_TO_9 if any("ragged" not in known for is_input, known in configs if is_input) else KERAS3
