"""Small models of one layer each behind a mask, for whichever Keras `make_generation.py` gives: does the layer use the
mask, does it pass it on?

A layer that this Keras refuses is left out. Runs in Python 3.6, too.
"""

from layer_models import INPUTS, LAYERS, build_layer

#: Class name, options: those that `layer_models.py` has no sequences for.
MORE = (
    ("MultiHeadAttention", {"num_heads": 2, "key_dim": 2}),
    ("CuDNNLSTM", {"units": 3}),
    ("LayerNormalization", {"axis": [1, 2]}),
    ("Softmax", {"axis": 1}),
    ("BatchNormalization", {"axis": 1}),
    ("LSTM", {"units": 3, "return_sequences": True, "zero_output_for_mask": True}),
    ("GRU", {"units": 3, "return_sequences": True, "go_backwards": True}),
    # They cast what they are given.
    ("LSTM", {"units": 3, "return_sequences": True, "dtype": "float64"}),
    ("Softmax", {"dtype": "float64"}),
    ("GlobalAveragePooling1D", {"dtype": "float64"}),
)
#: To these a sequence is one image, without rows.
_OF_IMAGES = (
    *("STFTSpectrogram", "MelSpectrogram", "Solarization", "Equalization", "AutoContrast", "AugMix", "MixUp", "CutMix"),
    *("RandAugment", "ContrastLimitedAdaptiveHistogramEqualization"),
    "RandomCrop",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
    "CenterCrop",
    "Resizing",
)
#: Behind a mask that Masking computes, too.
_BOTH = ("LSTM", "Softmax", "ReLU", "Dense", "BatchNormalization")
_MERGING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot")
_ON_PAIRS = (*_MERGING, "Attention", "AdditiveAttention", "MultiHeadAttention")
_WRAPPED = (
    ("Dense", {"units": 2}),
    ("LSTM", {"units": 2}),
    ("Dropout", {"rate": 0.2}),
    ("Softmax", {}),
    ("ReLU", {}),
    ("Activation", {"activation": "tanh"}),
    ("Embedding", {"input_dim": 9, "output_dim": 3, "mask_zero": True}),
)

#: Their calls have an argument `mask`.
_TAKE_MASKS = (
    ("LSTM", {"units": 3, "return_sequences": True}),
    ("Softmax", {}),
    ("BatchNormalization", {}),
    ("GlobalAveragePooling1D", {}),
)


def mask_models(keras):
    """Pairs of a label, and a function that makes the model or raises what this Keras raises."""
    make, seen = keras.layers, set()
    is_keras3 = getattr(keras, "__version__", "").startswith("3.")
    single = [(name, {**options, **forms[0]}) for name, options, forms, _ in LAYERS if name not in _ON_PAIRS]
    for name, options in [*single, *MORE]:
        key = repr((name, options))
        if key in seen or name in _ON_PAIRS or name in _OF_IMAGES or (is_keras3 and name.startswith("Random")):
            continue
        seen.add(key)
        for source in ("Masking", "Embedding") if name in _BOTH else ("Embedding",):
            yield (
                f"masked {name} {options} {source}",
                lambda args=(name, options, source): _behind_mask(keras, *args),
            )
    for name in _ON_PAIRS:
        for masked in ((True, False), (False, True), (True, True)):
            yield f"masked {name} {masked}", lambda args=(name, masked): _pair(keras, *args)
    for name, options in _WRAPPED:
        for wrapper in ("TimeDistributed", "Sequential", "Model"):
            yield (
                f"masked {name} in {wrapper}",
                lambda args=(name, options, wrapper): _wrapped(keras, *args),
            )
    for inner in ("Masking", "Dense", "LSTM"):
        yield f"masked Sequential of a float64 {inner}", lambda inner=inner: _sequential_casts(keras, inner)
        yield f"masked Model of a float64 {inner}", lambda inner=inner: _model_casts(keras, inner)
    for name in _MERGING:
        yield f"masked {name} of float64 and float32", lambda name=name: _merged_casts(keras, name)
    for mode in ("concat", "sum"):
        yield "masked Bidirectional " + mode, lambda mode=mode: _bidirectional(keras, mode)
    for name in ("SimpleRNN", "GRU", "LSTM"):
        for unroll in (False, True):
            label = f"masked {name} from a state" + (", unrolled" if unroll else "")
            yield label, lambda name=name, unroll=unroll: _from_state(keras, name, unroll)
    for name, options in _TAKE_MASKS:
        yield f"given a mask {name}", lambda args=(name, options): _given(keras, *args)
    yield "given a query mask", lambda: _given_query_mask(keras)
    if hasattr(make, "SpectralNormalization"):
        yield "masked SpectralNormalization", lambda: _spectral(keras)
        yield "masked SpectralNormalization of an Embedding", lambda: _spectral_embedding(keras)


def _source(keras, kind, masked=True):
    make = keras.layers
    shape, dtype = INPUTS["ids" if kind == "Embedding" else "sequence"]
    x = make.Input(shape=shape, dtype=dtype)
    if kind == "Embedding":
        return x, make.Embedding(9, 4, mask_zero=masked)(x)
    return x, make.Masking(0.5)(x) if masked else x


def _after(keras, y):
    """What shows the mask of a tensor, and the tensor itself."""
    make, outputs = keras.layers, list(y) if isinstance(y, (list, tuple)) else [y]
    return outputs + [make.SimpleRNN(3)(one) for one in outputs if len(one.shape) == 3]


def _behind_mask(keras, name, options, source):
    x, y = _source(keras, source)
    return keras.models.Model(x, _after(keras, build_layer(keras, name, options)(y)))


def _pair(keras, name, masked):
    make = keras.layers
    (a, first), (b, second) = _source(keras, "Masking", masked[0]), _source(keras, "Embedding", masked[1])
    if name == "MultiHeadAttention":
        y = make.MultiHeadAttention(2, 2)(first, second)
    else:
        layer = make.Dot(axes=(2, 2)) if name == "Dot" else getattr(make, name)()
        y = layer([first, second])
    return keras.models.Model([a, b], _after(keras, y))


def _wrapped(keras, name, options, wrapper):
    make = keras.layers
    layer = build_layer(keras, name, options)
    if name == "Embedding":
        x = make.Input(shape=(3, 6), dtype="int32") if wrapper == "TimeDistributed" else make.Input((6,), dtype="int32")
        if wrapper == "TimeDistributed":
            y = make.TimeDistributed(layer)(x)
            return keras.models.Model(x, [y, make.TimeDistributed(make.LSTM(2))(y)])
        y = x
    else:
        x, y = _source(keras, "Embedding")
    if wrapper == "TimeDistributed":
        if name == "LSTM":
            raise ValueError("no steps of sequences")
        return keras.models.Model(x, _after(keras, make.TimeDistributed(layer)(y)))
    if wrapper == "Sequential":
        inner = keras.models.Sequential([layer])
    else:
        entry = make.Input(
            shape=(6,) if name == "Embedding" else (6, 4), dtype="int32" if name == "Embedding" else None
        )
        inner = keras.models.Model(entry, layer(entry))
    return keras.models.Model(x, _after(keras, inner(y)))


def _casting(keras, name):
    """A layer on sequences that computes in float64."""
    options = {"Masking": {"mask_value": 0.5}, "Dense": {"units": 4}, "LSTM": {"units": 4, "return_sequences": True}}
    return getattr(keras.layers, name)(dtype="float64", **options[name])


def _sequential_casts(keras, name):
    make = keras.layers
    shape, _ = INPUTS["sequence"]
    layers = [make.Masking(0.5), _casting(keras, name), make.SimpleRNN(3, return_sequences=True), make.SimpleRNN(2)]
    return keras.models.Sequential([make.InputLayer(shape), *layers])


def _model_casts(keras, name):
    make = keras.layers
    entry = make.Input(shape=(6, 4))
    inner = keras.models.Model(entry, make.SimpleRNN(3, return_sequences=True)(_casting(keras, name)(entry)))
    x, y = _source(keras, "Embedding")
    return keras.models.Model(x, _after(keras, inner(y)))


def _merged_casts(keras, name):
    make = keras.layers
    (a, first), (b, second) = _source(keras, "Masking"), _source(keras, "Embedding")
    first = make.Masking(0.5, dtype="float64")(first)
    layer = make.Dot(axes=(2, 2)) if name == "Dot" else getattr(make, name)()
    return keras.models.Model([a, b], _after(keras, layer([first, second])))


def _bidirectional(keras, mode):
    make = keras.layers
    x, y = _source(keras, "Embedding")
    y = make.Bidirectional(make.LSTM(2, return_sequences=True), merge_mode=mode)(y)
    return keras.models.Model(x, _after(keras, y))


def _from_state(keras, name, unroll):
    """Sequences that may begin with masked timesteps, from a state that isn't 0."""
    make, (x, y) = keras.layers, _source(keras, "Embedding")
    state = make.Input(shape=(3,))
    layer = getattr(make, name)(3, return_sequences=True, unroll=unroll)
    y = layer(y, initial_state=[state, state] if name == "LSTM" else [state])
    return keras.models.Model([x, state], _after(keras, y))


def _given(keras, name, options):
    """A mask that is an input: for a sequence without one, and for one that has another."""
    make, (x, y), (entry, bare) = keras.layers, _source(keras, "Embedding"), _source(keras, "sequence", masked=False)
    mask = make.Input(shape=(6,), dtype="bool")
    given = make.Reshape((6, 1))(mask) if name == "Softmax" else mask
    outputs = [build_layer(keras, name, options)(sequence, mask=given) for sequence in (bare, y)]
    return keras.models.Model([x, entry, mask], [part for output in outputs for part in _after(keras, output)])


def _given_query_mask(keras):
    x, y = _source(keras, "sequence", masked=False)
    mask = keras.layers.Input(shape=(6,), dtype="bool")
    return keras.models.Model([x, mask], _after(keras, keras.layers.MultiHeadAttention(2, 2)(y, y, query_mask=mask)))


def _spectral(keras):
    x, y = _source(keras, "Embedding")
    return keras.models.Model(x, _after(keras, keras.layers.SpectralNormalization(keras.layers.Dense(3))(y)))


def _spectral_embedding(keras):
    make = keras.layers
    x = make.Input(shape=(6,), dtype="int32")
    y = make.SpectralNormalization(make.Embedding(9, 4, mask_zero=True))(x)
    return keras.models.Model(x, _after(keras, y))
