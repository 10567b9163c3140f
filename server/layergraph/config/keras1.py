"""Configs of Keras 1: Keras 2's names and values for them, and its merging of models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

#: Keras 1's class -> Keras 2's.
CLASSES: Mapping[str, str] = {
    "Model": "Functional",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "AtrousConv1D": "Conv1D",
    "AtrousConv2D": "Conv2D",
    "Deconvolution2D": "Conv2DTranspose",
    "Deconv2D": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
    "TimeDistributedDense": "Dense",
}

_PENALTIES = {
    "W_regularizer": "kernel_regularizer",
    "U_regularizer": "recurrent_regularizer",
    "b_regularizer": "bias_regularizer",
    "W_constraint": "kernel_constraint",
    "U_constraint": "recurrent_constraint",
    "b_constraint": "bias_constraint",
}
_RECURRENT = {
    "output_dim": "units",
    "inner_init": "recurrent_initializer",
    "inner_activation": "recurrent_activation",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
}
_POOLING = {"pool_length": "pool_size", "stride": "strides"}

#: Class ("*" for every class) -> old key -> key of Keras 3.
RENAMED: Mapping[str, Mapping[str, str]] = {
    "*": {
        **_PENALTIES,
        "bias": "use_bias",
        "init": "kernel_initializer",
        "border_mode": "padding",
        "dim_ordering": "data_format",
        "subsample": "strides",
        "subsample_length": "strides",
        "atrous_rate": "dilation_rate",
        "nb_filter": "filters",
        "filter_length": "kernel_size",
    },
    "InputLayer": {"batch_input_shape": "batch_shape", "input_dtype": "dtype"},
    "Dense": {"output_dim": "units"},
    "MaxoutDense": {"output_dim": "units"},
    "Embedding": {
        "init": "embeddings_initializer",
        "W_regularizer": "embeddings_regularizer",
        "W_constraint": "embeddings_constraint",
    },
    "SimpleRNN": _RECURRENT,
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "ConvLSTM2D": _RECURRENT,
    "Dropout": {"p": "rate"},
    "SpatialDropout1D": {"p": "rate"},
    "SpatialDropout2D": {"p": "rate"},
    "SpatialDropout3D": {"p": "rate"},
    "GaussianDropout": {"p": "rate"},
    "GaussianNoise": {"sigma": "stddev"},
    "BatchNormalization": {"beta_init": "beta_initializer", "gamma_init": "gamma_initializer"},
    "LeakyReLU": {"alpha": "negative_slope"},
    "PReLU": {"init": "alpha_initializer"},
    "MaxPooling1D": _POOLING,
    "AveragePooling1D": _POOLING,
    "UpSampling1D": {"length": "size"},
}

#: Options of Keras 1 only, which identify its files if there is no version.
OPTIONS = frozenset(
    {
        "nb_filter",
        "W_regularizer",
        "border_mode",
        "dim_ordering",
        "inner_init",
        "consume_less",
        "pool_length",
        "concat_axis",
    }
)

#: Keys without effect on results, or used by `adapt`, with the values for which that holds.
IGNORED: Mapping[str, tuple[Any, ...]] = {
    "mode": (0,),
    "mode_type": ("raw",),
    "output_shape_type": ("raw",),
    "output_mask": (None,),
    "output_mask_type": ("raw",),
    "arguments": ({},),
}

_MERGES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sum": ("Add", {}),
    "mul": ("Multiply", {}),
    "concat": ("Concatenate", {}),
    "ave": ("Average", {}),
    "max": ("Maximum", {}),
    "dot": ("Dot", {}),
    "cos": ("CosineMerge", {"normalize": True}),
}
_DATA_FORMATS = {"th": "channels_first", "tf": "channels_last", "default": "channels_last"}


def merge_layer(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Converts a `Merge` to the merging layer of its mode; one with code or an unknown mode is returned unchanged."""
    config = value.get("config")
    if value.get("class_name") != "Merge" or not isinstance(config, Mapping):
        return value
    mode = config.get("mode")
    known = _MERGES.get(mode) if isinstance(mode, str) else None
    plain = all(config.get(key) is None for key in ("output_shape", "output_mask"))
    if known is None or not plain or config.get("mode_type", "raw") != "raw" or config.get("layers"):
        return value
    kind, options = known
    made: dict[str, Any] = {"name": config.get("name"), **options}
    if kind == "Concatenate":
        made["axis"] = config.get("concat_axis", -1)
    if kind in ("Dot", "CosineMerge"):
        axes = config.get("dot_axes", -1)
        # Keras 1 also wrote lists of one axis each.
        made["axes"] = [a[0] if isinstance(a, list) and len(a) == 1 else a for a in axes] if _is_list(axes) else axes
    return {**value, "class_name": kind, "config": made}


def adapt(kind: str, config: dict[str, Any]) -> None:
    """Converts a layer's config, with keys already renamed, beyond what the tables cover."""
    if isinstance(config.get("data_format"), str):
        config["data_format"] = _DATA_FORMATS.get(config["data_format"], config["data_format"])
    for key, parts in (("nb_row", ("nb_row", "nb_col")), ("kernel_dim1", tuple(f"kernel_dim{i}" for i in (1, 2, 3)))):
        if key in config:
            config["kernel_size"] = [config.pop(part, None) for part in parts]
    for key in [key for key in config if key.endswith("_regularizer")]:
        config[key] = _regularizer(config[key])
    for key in [key for key in config if key.endswith("_constraint")]:
        config[key] = _constraint(config[key])
    special = _SPECIAL.get(kind)
    if special is not None:
        special(config)


def _regularizer(value: Any) -> Any:
    """Converts {"name": "WeightRegularizer", "l1": ..., "l2": ...} to Keras 2's form."""
    if isinstance(value, dict) and "class_name" not in value and {"l1", "l2"} <= value.keys():
        return {"class_name": "L1L2", "config": {"l1": value["l1"], "l2": value["l2"]}}
    return value


def _constraint(value: Any) -> Any:
    """Converts {"name": "MaxNorm", "m": ..., "axis": ...} to Keras 2's form."""
    if not isinstance(value, dict) or "class_name" in value or not isinstance(value.get("name"), str):
        return value
    options = {"max_value" if key == "m" else key: item for key, item in value.items() if key != "name"}
    return {"class_name": value["name"], "config": options}


def _recurrent(config: dict[str, Any]) -> None:
    config.pop("consume_less", None)
    config.pop("input_dim", None)
    if "forget_bias_init" in config:
        first = config.pop("forget_bias_init")
        config["unit_forget_bias"] = first in ("one", "ones")


def _without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def remove(config: dict[str, Any]) -> None:
        for key in keys:
            config.pop(key, None)

    return remove


def _output_padding(config: dict[str, Any]) -> None:
    """Converts `output_shape`, Keras 1's length of a transposed convolution's outputs, to `output_padding`."""
    shape = config.pop("output_shape", None)
    sizes: tuple[Any, Any] = (config.get("kernel_size"), config.get("strides", [1, 1]))
    numbers = [shape, *sizes] if _is_list(shape) and len(shape) == 4 else []
    if not numbers or not all(_is_list(s) and len(s) >= 2 and all(type(n) is int for n in s[1:]) for s in numbers):
        return
    lengths = shape[2:] if config.get("data_format") == "channels_first" else shape[1:3]
    same = config.get("padding") == "same"
    extras, usual = [], []
    for length, window, stride in zip(lengths, sizes[0], sizes[1], strict=False):
        steps = -(-(length if same else length - window + 1) // stride)
        least = (steps - 1) * stride + (window % 2 if same else window)
        extras.append(length - least)
        usual.append(steps * stride - least if same else max(stride - window, 0))
    if extras != usual:
        config["output_padding"] = extras


def _embedding(config: dict[str, Any]) -> None:
    # Dropout of entire words in training.
    config.pop("dropout", None)
    config.pop("dtype", None)


def _padding(config: dict[str, Any]) -> None:
    padding = config.get("padding")
    if isinstance(padding, Mapping):
        names = ("left_pad", "right_pad"), ("top_pad", "bottom_pad")
        pairs = [[padding.get(a, 0), padding.get(b, 0)] for a, b in names if {a, b} & padding.keys()]
        config["padding"] = pairs[0] if len(pairs) == 1 else pairs[::-1]
    elif isinstance(padding, (list, tuple)) and len(padding) == 4:
        config["padding"] = [padding[:2], padding[2:]]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


_SPECIAL: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "SimpleRNN": _recurrent,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "ConvLSTM2D": _recurrent,
    "Dense": _without("input_dim"),
    "MaxoutDense": _without("input_dim"),
    "Highway": _without("input_dim"),
    "Conv1D": _without("input_dim"),
    "LocallyConnected1D": _without("input_dim"),
    "Conv2DTranspose": _output_padding,
    "Embedding": _embedding,
    "ZeroPadding1D": _padding,
    "ZeroPadding2D": _padding,
}


#: Image layers whose config lacks the data format.
_WITHOUT_ORDERING = frozenset(f"{what}{rank}D" for what in ("ZeroPadding", "Cropping", "UpSampling") for rank in (2, 3))


def add_missing_ordering(config: Mapping[str, Any]) -> None:
    """Adds `dim_ordering` to the configs of layers that lack it, if all others have "th".

    Keras 1 read it from the user's settings, as for all other layers.
    """
    known: set[str] = set()
    missing: list[dict[str, Any]] = []
    waiting: list[Any] = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.values())
            if isinstance(item.get("dim_ordering"), str):
                known.add(item["dim_ordering"])
            elif str(item.get("class_name")) in _WITHOUT_ORDERING and isinstance(item.get("config"), dict):
                missing.append(item["config"])
        elif isinstance(item, list):
            waiting.extend(item)
    for inner in missing if known == {"th"} else ():
        inner.setdefault("dim_ordering", "th")


def without_branches(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Converts a Sequential that merges other Sequentials first to a graph; other configs are returned unchanged.

    Keras 1 stores the layers of all branches in sequence, so they aren't nested in the graph.
    """
    layers = _sequence(config)
    if layers is None or not _is_branching(layers):
        return config
    graph = _Unbranched()
    last = graph.add_all(layers)
    if last is None:
        return config
    inner = config.get("config")
    name = inner.get("name", "") if isinstance(inner, Mapping) else ""
    return {
        "class_name": "Model",
        "config": {
            "name": name,
            "layers": graph.layers,
            "input_layers": [[name, 0, 0] for name in graph.inputs],
            "output_layers": [[last, 0, 0]],
        },
    }


def _sequence(value: Any) -> list[Any] | None:
    """Returns the layers of a Sequential, or None for anything else."""
    if not isinstance(value, Mapping) or value.get("class_name") != "Sequential":
        return None
    inner = value.get("config")
    inner = inner.get("layers") if isinstance(inner, Mapping) else inner
    return inner if isinstance(inner, list) and inner and all(isinstance(item, Mapping) for item in inner) else None


def _is_branching(layers: list[Any]) -> bool:
    config = layers[0].get("config")
    return layers[0].get("class_name") == "Merge" and isinstance(config, Mapping) and bool(config.get("layers"))


def input_name(kind: Any, counts: Counter[str]) -> str:
    """The name of the input that a first layer of class `kind` makes; `counts` are those of earlier ones by class."""
    prefix = f"{str(kind)[:_LONGEST_CLASS].lower()}_input_"
    counts[prefix] += 1
    return f"{prefix}{counts[prefix]}"


class _Unbranched:
    """The layers of all branches, in the order of Keras 1's weights."""

    def __init__(self) -> None:
        self.layers: list[dict[str, Any]] = []
        self.inputs: list[str] = []
        self._counts: Counter[str] = Counter()

    def add_all(self, layers: list[Any], depth: int = 0) -> str | None:
        """Adds a branch and returns the name of its last layer; None if the branch has an unsupported form."""
        last: str | None = None
        for index, layer in enumerate(layers):
            config = layer.get("config")
            if not isinstance(config, Mapping) or not isinstance(config.get("name"), str) or depth > _MAX_BRANCHES:
                return None
            sources = [last]
            if index == 0 and _is_branching(layers):
                branches = [_sequence(branch) for branch in config["layers"]] if _is_list(config["layers"]) else []
                sources = [None if branch is None else self.add_all(branch, depth + 1) for branch in branches]
                layer = {**layer, "config": {key: item for key, item in config.items() if key != "layers"}}
            elif index == 0:
                sources = [self._input(layer.get("class_name"), config)]
            if not sources or any(source is None for source in sources):
                return None
            last = str(config["name"])
            self.layers.append({**layer, "name": last, "inbound_nodes": [[[source, 0, 0] for source in sources]]})
        return last

    def _input(self, kind: Any, config: Mapping[str, Any]) -> str | None:
        if config.get("batch_input_shape") is None:
            return None
        name = input_name(kind, self._counts)
        options = {"batch_input_shape": config["batch_input_shape"], "input_dtype": config.get("input_dtype")}
        self.layers.append({"class_name": "InputLayer", "name": name, "config": {"name": name, **options}})
        self.inputs.append(name)
        return name


#: Maximum number of characters of a class in the name of an input.
_LONGEST_CLASS = 100
#: Maximum nesting depth of branches.
_MAX_BRANCHES = 32
