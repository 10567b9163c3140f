"""Small models of one layer each, in every form that matters to a file, for whichever Keras `round_trips.py` gives.

A form that this Keras refuses is left out. Runs in Python 3.6, too.
"""

import itertools

import numpy as np

#: Shape of a row and type of each kind of input.
INPUTS = {
    "vector": ((4,), "float32"),
    "other": ((4,), "float32"),
    "sequence": ((6, 4), "float32"),
    "queries": ((6, 4), "float32"),
    "open": ((None, 4), "float32"),
    "frames": ((3, 6, 5, 2), "float32"),
    "rows": ((3, 6, 2), "float32"),
    "volumes": ((2, 4, 4, 3, 2), "float32"),
    "image": ((8, 7, 3), "float32"),
    "volume": ((5, 6, 6, 2), "float32"),
    "ids": ((6,), "int32"),
    "flags": ((6,), "bool"),
    "words": ((2,), "string"),
    "texts": ((1,), "string"),
    "counts": ((2,), "int64"),
    "wave": ((300,), "float32"),
    "waves": ((300, 2), "float32"),
    "state": ((3,), "float32"),
    "cell": ((3,), "float32"),
}
WORDS = ("cat", "dog", "", "Zebra crossing", "the cat, the dog & the bird")
_ACTIVATIONS = ("relu", "tanh", "sigmoid", "softmax", "elu", "selu", "softplus", "softsign", "exponential", "linear")
_LATER_ACTIVATIONS = ("hard_sigmoid", "swish", "gelu", "relu6", "mish", "leaky_relu", "silu")
_INITIALIZERS = (
    *("zeros", "ones", "glorot_uniform", "he_normal", "lecun_uniform", "random_normal", "orthogonal", "identity"),
    ("Constant", {"value": 0.3}),
    ("RandomUniform", {"minval": -0.2, "maxval": 0.2, "seed": 3}),
    ("TruncatedNormal", {"stddev": 0.1}),
    ("VarianceScaling", {"scale": 2.0, "mode": "fan_out", "distribution": "uniform"}),
)
_REGULARIZERS = ("l1", "l2", ("L1L2", {"l1": 0.01, "l2": 0.02}), ("OrthogonalRegularizer", {}))
_CONSTRAINTS = (
    *("non_neg", "unit_norm", ("MaxNorm", {"max_value": 2.0, "axis": 0})),
    *(("MinMaxNorm", {"min_value": 0.1}), ("RadialConstraint", {})),
)


def grid(**choices):
    """Every combination of options."""
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]  # noqa: B905 - Python 3.7


def each(*options):
    """No options, and each of these by itself."""
    return [{}, *options]


_CONV = each(*grid(strides=[1, 2], padding=["same", "valid"]), {"dilation_rate": 2}, {"use_bias": False})
_POOL = each(*grid(strides=[1, 3], padding=["same", "valid"]))
_RECURRENT = each(
    *grid(return_sequences=[True], return_state=[False, True], go_backwards=[True]),
    *({"use_bias": False}, {"dropout": 0.2, "recurrent_dropout": 0.1}, {"unroll": True}, {"implementation": 1}),
    *({"activation": "relu"}, {"recurrent_activation": "hard_sigmoid"}, {"unit_forget_bias": False}),
    *({"reset_after": False}, {"stateful": False, "time_major": False}, {"bias_constraint": "non_neg"}),
    *({"recurrent_regularizer": "l2"}, {"recurrent_initializer": "glorot_uniform"}, {"zero_output_for_mask": True}),
)
_LOOKUPS = each(
    *({"num_oov_indices": 2}, {"max_tokens": 20}, {"invert": False}),
    *grid(output_mode=["one_hot", "multi_hot", "count"]),
    {"output_mode": "tf_idf", "idf_weights": [0.5, 0.25]},
)
_FACTORS = [(-0.2, 0.3), (-0.1, 0.2)]
#: Class name, options given to all, forms, kinds of the inputs.
LAYERS = (
    ("Dense", {"units": 3}, each(*({"activation": name} for name in (*_ACTIVATIONS, *_LATER_ACTIVATIONS))), "vector"),
    ("Dense", {"units": 3}, each({"use_bias": False}), "sequence"),
    (
        "Dense",
        {"units": 4},
        [{"kernel_initializer": one, "bias_initializer": "ones"} for one in _INITIALIZERS],
        "vector",
    ),
    ("Dense", {"units": 4}, [{"kernel_regularizer": one} for one in _REGULARIZERS], "vector"),
    ("Dense", {"units": 4}, [{"activity_regularizer": one} for one in _REGULARIZERS[:3]], "vector"),
    ("Dense", {"units": 4}, [{"kernel_constraint": one} for one in _CONSTRAINTS], "vector"),
    ("Dense", {"units": 4}, grid(name=["a/b", "Conv4.1", "über", "x.y/z"], trainable=[True, False]), "vector"),
    ("Dense", {"units": 4}, [{"dtype": one} for one in ("float64", "mixed_float16", "mixed_bfloat16")], "vector"),
    ("EinsumDense", {"equation": "abc,cd->abd", "output_shape": (None, 5)}, each({"bias_axes": "d"}), "sequence"),
    ("Embedding", {"input_dim": 9, "output_dim": 3}, each({"mask_zero": True}, {"input_length": 6}), "ids"),
    ("Embedding", {"input_dim": 9, "output_dim": 3}, [{"embeddings_regularizer": "l2"}], "ids"),
    ("Activation", {}, [{"activation": name} for name in (*_ACTIVATIONS, *_LATER_ACTIVATIONS)], "vector"),
    ("ActivityRegularization", {"l2": 0.1}, each(), "vector"),
    ("ReLU", {}, each({"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.2}), "vector"),
    ("LeakyReLU", {}, each({"alpha": 0.1}), "vector"),
    ("PReLU", {}, each({"shared_axes": [1]}), "sequence"),
    ("ELU", {}, each({"alpha": 0.5}), "vector"),
    ("ThresholdedReLU", {}, each({"theta": 0.2}), "vector"),
    ("Softmax", {}, each({"axis": 1}, {"axis": [1, 2]}), "sequence"),
    ("Dropout", {"rate": 0.3}, each({"noise_shape": [None, 1], "seed": 3}), "vector"),
    ("AlphaDropout", {"rate": 0.3}, each(), "vector"),
    ("GaussianDropout", {"rate": 0.3}, each(), "vector"),
    ("GaussianNoise", {"stddev": 0.3}, each({"seed": 1}), "vector"),
    ("SpatialDropout1D", {"rate": 0.3}, each(), "sequence"),
    ("SpatialDropout2D", {"rate": 0.3}, each({"data_format": "channels_last"}), "image"),
    ("SpatialDropout3D", {"rate": 0.3}, each(), "volume"),
    ("BatchNormalization", {}, each({"axis": 1}, {"scale": False, "center": False}, {"momentum": 0.5}), "sequence"),
    ("BatchNormalization", {}, each({"trainable": False}, {"renorm": False}, {"beta_constraint": "non_neg"}), "image"),
    ("LayerNormalization", {}, each({"axis": [1, 2]}, {"scale": False}, {"center": False, "epsilon": 0.1}), "sequence"),
    ("GroupNormalization", {"groups": 2}, each({"axis": -1, "scale": False}), "sequence"),
    ("UnitNormalization", {}, each({"axis": 1}), "sequence"),
    ("Normalization", {}, each({"mean": 0.5, "variance": 2.0}, {"axis": None}, {"invert": True}), "vector"),
    ("Masking", {}, each({"mask_value": 0.5}), "sequence"),
    ("Flatten", {}, each({"data_format": "channels_last"}), "image"),
    ("Reshape", {}, [{"target_shape": (-1, 2)}, {"target_shape": (4, 6)}], "sequence"),
    ("Permute", {"dims": (2, 1)}, each(), "sequence"),
    ("RepeatVector", {"n": 3}, each(), "vector"),
    ("Identity", {}, each(), "vector"),
    ("ZeroPadding1D", {}, each({"padding": (1, 2)}), "sequence"),
    ("ZeroPadding2D", {}, each({"padding": ((1, 2), (0, 1))}), "image"),
    ("ZeroPadding3D", {}, each({"padding": 2}), "volume"),
    ("Cropping1D", {}, each({"cropping": (1, 2)}, {"cropping": 3}), "sequence"),
    ("Cropping2D", {"cropping": 1}, each({"cropping": ((1, 2), (0, 1))}, {"cropping": ((9, 0), (0, 1))}), "image"),
    ("Cropping3D", {}, each({"cropping": 3}), "volume"),
    ("UpSampling1D", {}, each({"size": 3}), "sequence"),
    ("UpSampling2D", {}, each({"interpolation": "bilinear"}, {"size": (1, 3)}), "image"),
    ("UpSampling3D", {}, each(), "volume"),
    ("Conv1D", {"filters": 4, "kernel_size": 3}, [*_CONV, {"padding": "causal"}, {"groups": 2}], "sequence"),
    ("Conv2D", {"filters": 3, "kernel_size": 3}, [*_CONV, {"groups": 3}, {"activation": "relu"}], "image"),
    (
        "Conv2D",
        {"filters": 3, "kernel_size": (2, 1)},
        each({"kernel_regularizer": "l2"}, {"trainable": False}),
        "image",
    ),
    ("Conv3D", {"filters": 2, "kernel_size": 2}, _CONV, "volume"),
    ("Conv1DTranspose", {"filters": 3, "kernel_size": 3}, _CONV[:5], "sequence"),
    ("Conv2DTranspose", {"filters": 3, "kernel_size": 3}, [*_CONV[:5], {"strides": 2, "output_padding": 1}], "image"),
    ("Conv3DTranspose", {"filters": 2, "kernel_size": 2}, _CONV[:5], "volume"),
    ("SeparableConv1D", {"filters": 3, "kernel_size": 3}, [*_CONV, {"depth_multiplier": 2}], "sequence"),
    ("SeparableConv2D", {"filters": 3, "kernel_size": 3}, [*_CONV, {"pointwise_regularizer": "l2"}], "image"),
    ("DepthwiseConv1D", {"kernel_size": 3}, [*_CONV, {"depth_multiplier": 2}], "sequence"),
    ("DepthwiseConv2D", {"kernel_size": 3}, [*_CONV, {"depthwise_initializer": "ones"}], "image"),
    ("LocallyConnected1D", {"filters": 2, "kernel_size": 3}, each(*grid(implementation=[1, 2, 3])), "sequence"),
    ("LocallyConnected2D", {"filters": 2, "kernel_size": 3}, each(*grid(implementation=[1, 2, 3])), "image"),
    *(
        (f"{kind}Pooling{rank}D", {"pool_size": 2}, _POOL, source)
        for kind, (rank, source) in itertools.product(
            ("Max", "Average"), ((1, "sequence"), (2, "image"), (3, "volume"))
        )
    ),
    *(
        (f"Global{kind}Pooling{rank}D", {}, each({"keepdims": True}, {"data_format": "channels_last"}), source)
        for kind, (rank, source) in itertools.product(
            ("Max", "Average"), ((1, "sequence"), (2, "image"), (3, "volume"))
        )
    ),
    *((name, {}, each(), ("vector", "other")) for name in ("Add", "Subtract", "Multiply", "Average")),
    *((name, {}, each(), ("vector", "other")) for name in ("Maximum", "Minimum")),
    ("Concatenate", {}, each({"axis": 1}), ("sequence", "queries")),
    ("Dot", {"axes": -1}, each({"normalize": True}, {"axes": (2, 2)}), ("sequence", "queries")),
    *((name, {"units": 3}, _RECURRENT, "sequence") for name in ("SimpleRNN", "LSTM", "GRU")),
    *((name, {"units": 3}, each({"return_sequences": True}), "open") for name in ("SimpleRNN", "LSTM", "GRU")),
    ("ConvLSTM1D", {"filters": 2, "kernel_size": 3}, each({"return_sequences": True}, {"padding": "same"}), "rows"),
    ("ConvLSTM2D", {"filters": 2, "kernel_size": 3}, each({"return_sequences": True}, {"padding": "same"}), "frames"),
    ("ConvLSTM3D", {"filters": 2, "kernel_size": 2}, each({"return_state": True}), "volumes"),
    ("Attention", {}, each({"use_scale": True}, {"score_mode": "concat"}, {"dropout": 0.1}), ("sequence", "queries")),
    ("Attention", {}, each({"causal": False}), ("sequence", "queries")),
    ("AdditiveAttention", {}, each({"use_scale": False}), ("sequence", "queries")),
    ("CategoryEncoding", {"num_tokens": 9}, each(*grid(output_mode=["one_hot", "multi_hot"])), "counts"),
    ("CategoryEncoding", {"max_tokens": 9}, grid(output_mode=["binary", "count"]), "counts"),
    ("Discretization", {"bins": [-1.0, 0.0, 0.5]}, each(), "vector"),
    ("Discretization", {"bin_boundaries": [-1.0, 0.0, 0.5]}, each({"output_mode": "one_hot"}), "vector"),
    # Values that equal boundaries.
    ("Discretization", {"bins": [0.0, 2.0, 5.0]}, each(), "counts"),
    ("Discretization", {"bin_boundaries": [0.0, 2.0, 5.0]}, each(), "counts"),
    ("Hashing", {"num_bins": 5}, each({"salt": 3}, {"mask_value": ""}, {"output_mode": "multi_hot"}), "words"),
    ("HashedCrossing", {"num_bins": 5}, each({"output_mode": "one_hot"}), ("first", "second")),
    ("StringLookup", {"vocabulary": ["cat", "dog"]}, _LOOKUPS, "words"),
    ("IntegerLookup", {"vocabulary": [3, 7]}, _LOOKUPS, "counts"),
    ("TextVectorization", {"vocabulary": ["cat", "dog"]}, each({"output_sequence_length": 4}, {"ngrams": 2}), "texts"),
    ("TextVectorization", {"vocabulary": ["cat", "dog"]}, grid(output_mode=["multi_hot", "count"]), "texts"),
    ("TextVectorization", {"vocabulary": ["cat", "dog"]}, [{"standardize": None, "split": "character"}], "texts"),
    ("Rescaling", {"scale": 0.1}, each({"offset": 2.0}), "image"),
    ("Resizing", {"height": 5, "width": 4}, each({"interpolation": "nearest", "crop_to_aspect_ratio": True}), "image"),
    ("CenterCrop", {"height": 5, "width": 4}, each(), "image"),
    ("RandomCrop", {"height": 5, "width": 4}, each({"seed": 2}), "image"),
    ("RandomFlip", {}, each({"mode": "horizontal", "seed": 5}), "image"),
    ("RandomTranslation", {"height_factor": 0.2, "width_factor": 0.1}, each({"fill_mode": "nearest"}), "image"),
    ("RandomTranslation", {"height_factor": _FACTORS[0], "width_factor": _FACTORS[1]}, each(), "image"),
    ("RandomRotation", {"factor": 0.2}, each({"interpolation": "nearest", "seed": 1}), "image"),
    ("RandomZoom", {"height_factor": 0.2}, each({"width_factor": (-0.1, 0.1)}), "image"),
    ("RandomContrast", {"factor": 0.2}, each({"factor": (0.1, 0.3)}), "image"),
    ("RandomBrightness", {"factor": 0.2}, each({"value_range": (0.0, 1.0)}), "image"),
    ("MaxoutDense", {"output_dim": 3}, each({"nb_feature": 2, "bias": False, "input_dim": 4}), "vector"),
    ("Highway", {}, each({"activation": "relu", "bias": False}), "vector"),
    # Of Keras 3.
    ("RMSNormalization", {}, each({"epsilon": 0.1}), "sequence"),
    ("ReversibleEmbedding", {"input_dim": 9, "output_dim": 3}, each({"mask_zero": True}), "ids"),
    *(
        (f"Adaptive{kind}Pooling{rank}D", {"output_size": 2}, each({"output_size": 3}), source)
        for kind, (rank, source) in itertools.product(
            ("Max", "Average"), ((1, "sequence"), (2, "image"), (3, "volume"))
        )
    ),
    ("STFTSpectrogram", {"frame_length": 32, "frame_step": 16}, each({"mode": "log"}, {"window": None}), "waves"),
    ("MelSpectrogram", {"fft_length": 64, "sequence_stride": 16}, each({"num_mel_bins": 20}), "wave"),
    *(
        (name, {}, each(), "image")
        for name in ("AutoContrast", "Equalization", "AugMix", "RandAugment", "Solarization")
    ),
    *((name, {}, each(), "image") for name in ("CutMix", "MixUp", "RandomElasticTransform", "RandomErasing")),
    *((name, {}, each(), "image") for name in ("RandomGaussianBlur", "RandomGrayscale", "RandomInvert", "RandomShear")),
    *(
        (name, {"factor": 0.5}, each(), "image")
        for name in ("RandomColorDegeneration", "RandomHue", "RandomPerspective")
    ),
    *((name, {"factor": 0.5}, each(), "image") for name in ("RandomSaturation", "RandomSharpness")),
    ("RandomPosterization", {"factor": 4}, each(), "image"),
    ("RandomColorJitter", {"brightness_factor": 0.2, "hue_factor": 0.1}, each(), "image"),
    ("ContrastLimitedAdaptiveHistogramEqualization", {}, each(), "image"),
    ("RandomHeight", {"factor": 0.2}, each(), "image"),
    ("RandomWidth", {"factor": 0.2}, each(), "image"),
)


def layer_models(keras):
    """Pairs of a label, and a function that makes the model or raises what this Keras raises."""
    for name, options, forms, kinds in LAYERS:
        for number, form in enumerate(forms):
            yield f"{name} {number} {kinds}", lambda args=(keras, name, {**options, **form}, kinds): _one(*args)
    for name in sorted(_BY_HAND):
        yield name, lambda make=_BY_HAND[name]: make(keras, keras.layers)


def _input(keras, kind):
    shape, dtype = INPUTS[kind]
    return keras.layers.Input(shape=shape, dtype=dtype)


def _one(keras, name, options, kinds):
    layer = build_layer(keras, name, options)
    if kinds == ("first", "second"):
        inputs = [keras.layers.Input((1,), dtype=dtype) for dtype in ("string", "int64")]
    else:
        inputs = [_input(keras, kind) for kind in ((kinds,) if isinstance(kinds, str) else kinds)]
    return keras.models.Model(inputs, layer(inputs[0] if isinstance(kinds, str) else inputs))


def build_layer(keras, name, options):
    """A layer of this Keras."""
    make = keras.layers
    if not hasattr(make, name) and hasattr(make, "experimental"):
        # Preprocessing layers up to TensorFlow 2.5.
        make = make.experimental.preprocessing
    return getattr(make, name)(**{key: _value(keras, key, item) for key, item in options.items()})


def _value(keras, key, value):
    """Pairs of a class and its options as objects."""
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict)):
        return value
    module = {"initializer": keras.initializers, "regularizer": keras.regularizers, "constraint": keras.constraints}
    return getattr(module[key.rpartition("_")[2]], value[0])(**value[1])


# What takes more than a layer's options.


def _attention(keras, make, **given):
    query, value = _input(keras, "sequence"), _input(keras, "queries")
    options = given.pop("options", {})
    attention = make.MultiHeadAttention(num_heads=2, key_dim=3, **options)
    return keras.models.Model([query, value], attention(query, value, **given))


def _grouped_attention(keras, make):
    query, value = _input(keras, "sequence"), _input(keras, "queries")
    layer = make.GroupQueryAttention(head_dim=2, num_query_heads=4, num_key_value_heads=2)
    return keras.models.Model([query, value], layer(query, value))


def _pipeline(keras, make):
    x = _input(keras, "image")
    return keras.models.Model(x, make.Pipeline([make.Rescaling(0.5), make.CenterCrop(4, 5)])(x))


def _attention_masks(keras, make):
    query, value, flags = (_input(keras, kind) for kind in ("sequence", "queries", "flags"))
    first = make.MultiHeadAttention(2, 3)(query, value, attention_mask=make.Reshape((1, 6))(flags))
    second = make.MultiHeadAttention(2, 3)(query, value, key=query)
    return keras.models.Model([query, value, flags], [first, second])


def _masked(keras, make):
    ids, flags = _input(keras, "ids"), _input(keras, "flags")
    words = make.Embedding(9, 4, mask_zero=True)(ids)
    outputs = [make.LSTM(3)(words), make.GRU(3)(words, mask=flags), make.Bidirectional(make.LSTM(2))(words, mask=flags)]
    # Up to Keras 3.14 on torch, this layer zeroes masked steps in the tensor that it is given.
    first, second = make.Add()([words, words]), make.Add()([words, words])
    outputs += [make.GlobalAveragePooling1D()(first), make.GlobalAveragePooling1D()(second, mask=flags)]
    outputs += [make.MultiHeadAttention(1, 2)(words, words), make.Attention()([words, words], mask=[flags, flags])]
    outputs += [make.TimeDistributed(make.Dense(2))(words), make.Add()([words, make.Masking()(words)])]
    outputs += [make.Concatenate()([words, words]), make.Softmax()(make.Dense(6)(make.Flatten()(words)), mask=flags)]
    return keras.models.Model([ids, flags], outputs)


def _states(keras, make):
    sequence, state, cell = (_input(keras, kind) for kind in ("sequence", "state", "cell"))
    outputs = [make.LSTM(3)(sequence, initial_state=[state, cell]), make.GRU(3)([sequence, state])]
    encoded = make.LSTM(3, return_state=True)(sequence)
    outputs.append(make.LSTM(3, return_sequences=True)(sequence, initial_state=encoded[1:]))
    way = make.Bidirectional(make.LSTM(3, return_state=True))(sequence)
    outputs.append(make.Bidirectional(make.LSTM(3))(sequence, initial_state=way[1:]))
    return keras.models.Model([sequence, state, cell], outputs)


def _cells(keras, make):
    x = _input(keras, "sequence")
    stack = [make.LSTMCell(3), make.GRUCell(2, reset_after=False), make.SimpleRNNCell(4)]
    outputs = [make.RNN(make.LSTMCell(3, dropout=0.1))(x), make.RNN(stack, return_sequences=True)(x)]
    outputs += [make.RNN(make.StackedRNNCells([make.GRUCell(3), make.GRUCell(2)]))(x)]
    outputs += [make.Bidirectional(make.RNN(make.GRUCell(2)))(x)]
    return keras.models.Model(x, outputs)


def _wrappers(keras, make):
    x, frames = _input(keras, "sequence"), _input(keras, "frames")
    inner = keras.models.Sequential([make.Conv2D(2, 3, input_shape=(6, 5, 2)), make.Flatten(), make.Dense(2)])
    outputs = [make.TimeDistributed(inner)(frames), make.TimeDistributed(make.Dense(3, activation="relu"))(x)]
    outputs += [make.TimeDistributed(make.TimeDistributed(make.Conv1D(2, 2)))(frames)]
    for mode in ("concat", "sum", "mul", "ave"):
        outputs.append(make.Bidirectional(make.GRU(2, return_sequences=True), merge_mode=mode)(x))
    outputs += list(make.Bidirectional(make.LSTM(2), merge_mode=None)(x))
    back = make.GRU(3, go_backwards=True)
    outputs.append(make.Bidirectional(make.LSTM(3), backward_layer=back, name="two/ways")(x))
    return keras.models.Model([x, frames], outputs)


def _spectral(keras, make):
    x = _input(keras, "image")
    return keras.models.Model(x, make.SpectralNormalization(make.Conv2D(3, 3))(x))


def _activation_layers(keras, make):
    x = _input(keras, "sequence")
    outputs = [make.Dense(3, activation=layer)(x) for layer in (make.LeakyReLU(), make.PReLU(), make.ReLU(2.0))]
    return keras.models.Model(x, [*outputs, make.Conv1D(2, 3, activation=make.ELU(0.3))(x)])


def _nested(keras, make):
    a, b = _input(keras, "vector"), _input(keras, "other")
    entry = _input(keras, "vector")
    inner = keras.models.Model(entry, make.BatchNormalization()(make.Dense(4, activation="tanh")(entry)), name="inner")
    stack = keras.models.Sequential([make.Dense(4, input_shape=(4,)), make.Dropout(0.2), make.Dense(4)], name="stack")
    outer_in = _input(keras, "vector")
    outer = keras.models.Model(outer_in, [inner(stack(outer_in)), stack(inner(outer_in))], name="outer/model")
    first, second = outer(a)
    shared = make.Dense(4, name="shared")
    inner.trainable = False
    return keras.models.Model([a, b], [inner(inner(first)), stack(second), shared(a), shared(b), shared(shared(b))])


def _dicts(keras, make):
    a, b = make.Input((4,), name="a"), make.Input((4,), name="b")
    entry = {"q": make.Input((4,), name="q"), "p": make.Input((4,), name="p")}
    summed = {"sum": make.Add()([entry["q"], entry["p"]]), "one": make.Dense(2)(entry["p"])}
    inner = keras.models.Model(entry, summed, name="inner")
    result = inner({"q": a, "p": b})
    return keras.models.Model({"b": b, "a": a}, {"z": make.Dense(2)(result["sum"]), "y": result["one"]})


def _sequential(keras, make):
    return keras.models.Sequential(
        [make.Dense(4, activation="relu", input_shape=(4,)), make.Dropout(0.5), make.Dense(2)]
    )


def _sequential_input(keras, make):
    return keras.models.Sequential(
        [make.Input((8, 7, 3)), make.Conv2D(3, 3), make.Flatten(), make.Dense(2)], name="s/q"
    )


def _mixed(keras, make):
    x = _input(keras, "image")
    y = make.Conv2D(3, 3, dtype="mixed_float16", activation="relu")(x)
    y = make.BatchNormalization(dtype="mixed_float16")(y)
    y = make.Flatten(dtype="mixed_float16")(y)
    return keras.models.Model(x, make.Dense(2, dtype="float32", activation="softmax")(y))


def _adapted(keras, make):
    x, words = _input(keras, "vector"), _input(keras, "words")
    norm = make.Normalization()
    norm.adapt(np.random.RandomState(0).standard_normal((20, 4)).astype("float32"))
    bins = make.Discretization(num_bins=3)
    bins.adapt(np.linspace(-1, 1, 20).astype("float32"))
    return keras.models.Model([x, words], [norm(x), bins(x), make.StringLookup(vocabulary=["cat", "dog"])(words)])


def _adapted_words(keras, make):
    words, texts = _input(keras, "words"), _input(keras, "texts")
    lookup = make.StringLookup(output_mode="tf_idf")
    lookup.adapt(np.array([["cat", "dog"], ["cat", "bird"]]))
    vectors = make.TextVectorization()
    vectors.adapt(np.array([["the cat the dog"], ["a bird"]]))
    return keras.models.Model([words, texts], [lookup(words), vectors(texts)])


_BY_HAND = {
    "attention": _attention,
    "attention dropout": lambda keras, make: _attention(keras, make, options={"dropout": 0.1, "value_dim": 2}),
    "attention no bias": lambda keras, make: _attention(keras, make, options={"use_bias": False, "output_shape": 5}),
    "attention scores": lambda keras, make: _attention(keras, make, return_attention_scores=True),
    "attention causal": lambda keras, make: _attention(keras, make, use_causal_mask=True),
    "attention masks": _attention_masks,
    "attention in groups": _grouped_attention,
    "pipeline": _pipeline,
    "masks": _masked,
    "states": _states,
    "cells": _cells,
    "wrappers": _wrappers,
    "spectral": _spectral,
    "activation layers": _activation_layers,
    "nested": _nested,
    "dicts": _dicts,
    "sequential": _sequential,
    "sequential input": _sequential_input,
    "mixed": _mixed,
    "adapted": _adapted,
    "adapted words": _adapted_words,
}


def example(shape, kind, random):
    """Data for an input of that shape and type."""
    rows, *lengths = shape
    shape = (rows or 3, *(5 if length is None else length for length in lengths))
    if kind == "string":
        return np.array([WORDS[i] for i in random.randint(0, len(WORDS), shape).ravel()]).reshape(shape)
    if kind == "bool":
        values = random.rand(*shape) < 0.7
        values[:, 0] = True
        return values
    if kind.startswith("int"):
        # Some random graphs embed 7 categories.
        values = random.randint(1, 7 if kind == "int32" else 8, shape)
        values[:, -1] = values[0, 0] = 0
        return values.astype(kind)
    values = random.standard_normal(shape).astype(kind)
    if len(shape) == 3:
        # What `Masking` masks.
        values[0, 1], values[-1, -1] = 0.5, 0.0
    return values
