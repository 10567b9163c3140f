"""What a generation of Keras writes into its configs, as a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from layergraph.config import keras1, keras2, tfjs

#: Stands for "whatever its value" in a table of ignored keys.
ANY: Final = object()


@dataclass(frozen=True, slots=True)
class Generation:
    """How configs of one generation differ from the canonical ones, which are Keras 3's.

    name             for messages
    major            first number of its version: what a graph's form depends on
    ignored          config keys that mean nothing here, with the values for which that holds (or ANY)
    classes          class name -> canonical class name
    renamed          class name ("*" for every class) -> old key -> canonical key
    defaults         class name -> options that this generation means when its config doesn't name them
    activations      activation -> canonical activation
    rules            class name -> options that make a layer behave as this generation does
    masks_left_out   whether a call with `mask=None` means that no mask goes in, rather than the one that comes along
    adapt            what tables can't say: changes a config whose keys are renamed already, (class name, config)
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
    adapt: Callable[[str, dict[str, Any]], None] = lambda kind, config: None

    def ignores(self, key: str, value: Any) -> bool:
        """Whether an option that no layer here has can be left out."""
        harmless = self.ignored.get(key, ())
        return harmless is ANY or (isinstance(harmless, tuple) and any(value is h or value == h for h in harmless))


#: Key of a layer's object under which options stand that only layergraph has: Keras passes over it.
OWN_KEY: Final = "layerserve"
#: There, the number that a layer's first call in the graph has; 0 where it isn't said.
FIRST_CALL: Final = "first_call"
#: There, the name of an activation that Keras 3 has to put together.
ACTIVATION: Final = "activation"
#: Options by which a layer follows an earlier generation of Keras.
OWN_OPTIONS: Final = frozenset({"mask_rule", "image_rule", "step_rule"})
#: What such an option says where the layer follows Keras 3, and the file need not name it.
KERAS3_RULE: Final = "keras3"

_NO: Final = (False, None)

#: Keys of every generation that only tell how something is computed, not what.
_HOW: Mapping[str, object] = {
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
    "renorm": _NO,
    "renorm_clipping": ANY,
    "renorm_momentum": ANY,
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "activity_regularizer": (None,),
    "batch_input_shape": ANY,
    "batch_size": ANY,
    "input_length": ANY,
    "input_dtype": ANY,
    "zero_output_for_mask": _NO,
    "mask_rule": ANY,
}

KERAS3 = Generation(
    name="Keras 3",
    major=3,
    ignored={
        **_HOW,
        "optional": _NO,
        # The policy tells whether a layer is quantised, not what was asked for.
        "quantization_config": ANY,
        "gptq_unpacked_column_size": ANY,
        # Low-rank changes are added to the kernels that a `.keras` holds.
        "lora_rank": ANY,
        "lora_alpha": ANY,
        "build_input_shape": ANY,
        # Of random layers that don't look at values, in the first releases.
        "value_range": ANY,
        # Of Bincount.
        "weights": (None,),
    },
    # A `.h5` names the Python class, not the layer's public name.
    classes={"GroupedQueryAttention": "GroupQueryAttention", "CtcLoss": "CTCLoss"},
    renamed={
        "MultiHot": {"num_tokens": "num_classes"},
        "Threshold": {"threshold_value": "threshold", "value": "default_value"},
    },
)

_MERGING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot")
_ATTENTION = ("MultiHeadAttention", "GroupQueryAttention", "Softmax")
_RECURRENT = ("SimpleRNN", "LSTM", "GRU", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
#: Slope 1/5 in Keras 1 and 2, 1/6 in Keras 3.
_ACTIVATIONS = {"hard_sigmoid": "keras2_hard_sigmoid"}
#: Keras 1 and 2 combine masks with AND, Keras 3 with OR; Keras 3 forgets the mask where states are given as tensors.
#: They let a query that may attend to nothing attend to all, cut images where Keras 3 lets them pass, and make
#: fractions of integers that Keras 3 keeps. Steps of all rows are one batch to them, where Keras 3 takes step by step.
_RULES = {
    "TimeDistributed": {"step_rule": "keras2"},
    **{name: {"mask_rule": "keras2"} for name in (*_MERGING, *_RECURRENT, *_ATTENTION)},
    **{name: {"image_rule": "keras2"} for name in ("RandomCrop", "Resizing")},
}

#: Up to 3.9, who may attend to nothing attends to all alike, as in Keras 2.
KERAS3_UP_TO_9 = replace(KERAS3, rules={name: {"mask_rule": "keras2"} for name in _ATTENTION})
#: Up to 3.3, masks of tensors in a list are lost.
KERAS3_UP_TO_3 = replace(KERAS3_UP_TO_9, rules={**KERAS3_UP_TO_9.rules, **{n: {"mask_rule": "none"} for n in _MERGING}})

#: Keras 2.0 to 2.3 and tf.keras 2.x.
KERAS2 = Generation(
    name="Keras 2",
    major=2,
    ignored={
        **_HOW,
        # tf.keras writes a convolution's options for transposed, depthwise and separable ones, which don't have them.
        "groups": (1,),
        "kernel_initializer": ANY,
        "kernel_regularizer": ANY,
        "kernel_constraint": ANY,
        # And a dropout's for spatial ones.
        "noise_shape": (None,),
        # What an attention's projections were built for.
        "query_shape": ANY,
        "key_shape": ANY,
        "value_shape": ANY,
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
        # TensorFlow 1.13 to 2.0's previews.
        "UnifiedLSTM": "LSTM",
        "UnifiedGRU": "GRU",
    },
    renamed={"LeakyReLU": {"alpha": "negative_slope"}, "InputLayer": {"batch_input_shape": "batch_shape"}},
    # Where Keras 3 has other defaults, and early configs don't name the option.
    defaults={
        "GRU": {"reset_after": False},
        "GRUCell": {"reset_after": False},
        "CuDNNGRU": {"reset_after": True},
        "LeakyReLU": {"negative_slope": 0.3},
        **{f"ConvLSTM{rank}D": {"recurrent_activation": "keras2_hard_sigmoid"} for rank in (1, 2, 3)},
    },
    activations=_ACTIVATIONS,
    rules=_RULES,
    masks_left_out=True,
    adapt=keras2.adapt,
)

#: Keras 2.0 to 2.3 on several backends, whose Bidirectional doesn't clear masked steps, and whose images have their
#: pixels at corners.
MULTI_BACKEND = replace(
    KERAS2,
    name="multi-backend Keras 2",
    masks_left_out=False,
    rules={**_RULES, "Bidirectional": {"mask_rule": "keras2"}, "UpSampling2D": {"image_rule": "corner"}},
)

#: What TensorFlow.js writes itself; what its converter writes has the version of the Keras before it.
TENSORFLOW_JS = replace(MULTI_BACKEND, name="TensorFlow.js", adapt=tfjs.adapt)

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
    adapt=keras1.adapt,
)


#: tf.keras of those days says "2.3.0-tf".
_MULTI_BACKEND = re.compile(r"2\.[0-3]\.\d+")
_KERAS3 = re.compile(r"3\.(\d{1,4})(?!\d)")
_LATEST = 9999


def generation_of(keras_version: str | None, config: Mapping[str, Any]) -> Generation:
    """The generation that wrote a config; where it has no version, its shape tells."""
    if keras_version is not None:
        version = keras_version.strip()
        if version.startswith("tfjs"):
            return TENSORFLOW_JS
        if version.startswith(("0.", "1.")):
            return KERAS1
        if _MULTI_BACKEND.fullmatch(version):
            return MULTI_BACKEND
        if version.startswith("2."):
            return KERAS2
        release = _KERAS3.match(version)
        minor = int(release[1]) if release else _LATEST
        return KERAS3_UP_TO_3 if minor <= 3 else KERAS3_UP_TO_9 if minor <= 9 else KERAS3
    items = _layers_of(config)
    if any(keras1.OPTIONS & layer["config"].keys() for layer in items if isinstance(layer.get("config"), Mapping)):
        return KERAS1
    for layer in items:
        nodes = layer.get("inbound_nodes")
        if isinstance(nodes, list) and nodes:
            return _release_of(items) if isinstance(nodes[0], Mapping) and "args" in nodes[0] else KERAS2
    return _release_of(items) if any("module" in layer for layer in items) else KERAS2


def _layers_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, Mapping) else inner
    return [layer for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []


def _release_of(items: Sequence[Mapping[str, Any]]) -> Generation:
    """The releases of Keras 3 that write such layers: a `model.json` has no version."""
    # Models have no dtype of their own.
    waiting, configs = list(items), []
    while waiting:
        layer = waiting.pop()
        inner = _layers_of(layer)
        waiting += inner
        if not inner and isinstance(layer.get("config"), Mapping):
            configs.append((layer.get("class_name") == "InputLayer", layer["config"]))
    # Layers that compute have a policy since 3.4, inputs `ragged` since 3.10.
    if any(isinstance(known.get("dtype"), str) and "trainable" in known for is_input, known in configs if not is_input):
        return KERAS3_UP_TO_3
    return KERAS3_UP_TO_9 if any("ragged" not in known for is_input, known in configs if is_input) else KERAS3
