"""Small models of KerasHub: one for each layer and its options, each backbone, and each task. Needs `keras_hub`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import keras_hub
import numpy as np

layers = keras_hub.layers
models = keras_hub.models

ROWS, STEPS, FEATURES, WORDS = 3, 7, 8, 20

#: The model, and its arrays by input name.
Case = tuple[Any, dict[str, Any]]


def _random() -> np.random.Generator:
    return np.random.default_rng(5)


def vectors(*shape: int) -> Any:
    """Random numbers; images have few different ones, so that files can be compressed."""
    values = _random().normal(size=shape)
    return (np.round(values * 4) / 4 if values.size > 1000 else values).astype("float32")


def ids(*shape: int, high: int = WORDS) -> Any:
    """Random integers."""
    return _random().integers(0, high, shape).astype("int32")


def padding(steps: int = STEPS) -> Any:
    """A mask of rows with a growing number of tokens."""
    return (np.arange(steps) < np.array([[steps], [3], [1]])).astype("int32")


def varied(model: Any) -> Any:
    """Moves all weights off their first values, which hide mistakes."""
    random = np.random.default_rng(7)
    for weight in model.weights:
        if "seed" not in weight.name and "int" not in str(weight.dtype):
            near_one = weight.name in ("gamma", "moving_variance")
            low, high = (0.7, 1.3) if near_one else (-0.3, 0.3)
            values = random.uniform(low, high, weight.shape)
            # Large arrays get few different values, so that files can be compressed.
            weight.assign(np.round(values * 16) / 16 if values.size > 1000 else values)
    return model


#: Arguments of calls whose lengths are open, as those of the first input are.
_OPEN = ("encoder_sequence", "positions")


def _over(layer: Any, shape: tuple[int | None, ...], array: Any, closed: bool = False, **call: Any) -> Case:
    """A model of one layer; arrays among the arguments of its call become inputs. If `closed`, masks have known lengths
    although the sequence has not.
    """
    x = keras.Input(shape, name="x")
    given, arrays = {}, {"x": array}
    for name, value in call.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
            is_open = name in _OPEN or (name.endswith("_mask") and not closed)
            free = value.ndim - 1 if value.dtype == "int32" else 1
            lengths = (*(None,) * free, *value.shape[1 + free :]) if is_open else value.shape[1:]
            given[name] = keras.Input(lengths, dtype=value.dtype.name, name=name)
        else:
            given[name] = value
    return keras.Model([x, *(v for v in given.values() if hasattr(v, "shape"))], layer(x, **given)), arrays


def _encoder(call: Mapping[str, Any] | None = None, features: int = FEATURES, heads: int = 2, **options: Any) -> Case:
    layer = layers.TransformerEncoder(12, heads, **options)
    return _over(layer, (None, features), vectors(ROWS, STEPS, features), **(call or {}))


def _masked(make: Callable[[Any, Any], Any]) -> Case:
    """A model whose sequences come with the mask of an Embedding."""
    x, mask = keras.Input((None,), dtype="int32", name="x"), keras.Input((None,), dtype="bool", name="m")
    y = keras.layers.Embedding(WORDS, FEATURES, mask_zero=True)(x)
    array = ids(ROWS, STEPS)
    array[:, -2:] = 0
    return keras.Model([x, mask], make(y, mask)), {"x": array, "m": padding().astype(bool)}


def _masked_encoder(**options: Any) -> Case:
    def make(y: Any, mask: Any) -> Any:
        y = layers.TransformerEncoder(12, 2, **options)(y)
        y = layers.TransformerEncoder(12, 2)(y, padding_mask=mask)
        # Masked timesteps, too: the attention layer's own masks change them.
        return [keras.layers.LSTM(4)(y), y]

    return _masked(make)


def _masked_decoder() -> Case:
    def make(y: Any, mask: Any) -> Any:
        y = layers.TransformerDecoder(12, 2)(y, keras.layers.Masking()(y), decoder_padding_mask=mask)
        return keras.layers.GlobalAveragePooling1D()(y)

    return _masked(make)


def _decoder(crosses: bool, call: Mapping[str, Any] | None = None, **options: Any) -> Case:
    layer = layers.TransformerDecoder(12, 2, **options)
    given = {"encoder_sequence": vectors(ROWS, 5, FEATURES)} if crosses else {}
    return _over(layer, (None, FEATURES), vectors(ROWS, STEPS, FEATURES), **given, **(call or {}))


def _cached_decoder(crosses: bool) -> Case:
    caches = {"self_attention_cache": vectors(ROWS, 2, 9, 2, 4)}
    if crosses:
        caches["cross_attention_cache"] = vectors(ROWS, 2, 5, 2, 4)
    layer = layers.TransformerDecoder(12, 2)
    given = {"encoder_sequence": vectors(ROWS, 5, FEATURES)} if crosses else {}
    array = vectors(ROWS, 2, FEATURES)
    return _over(layer, (2, FEATURES), array, **given, **caches, self_attention_cache_update_index=4)


def _cached_attention(**call: Any) -> Case:
    layer = layers.CachedMultiHeadAttention(2, 4)
    value = vectors(ROWS, 5, FEATURES)
    return _over(layer, (STEPS, FEATURES), vectors(ROWS, STEPS, FEATURES), value=value, **call)


def _sums(layer: Any, **call: Any) -> Case:
    model, arrays = _over(layer, (None, FEATURES), vectors(ROWS, STEPS, FEATURES), **call)
    return keras.Model(model.inputs, model.inputs[0] + model.output), arrays


def _rotary(shape: tuple[int, ...], call: Mapping[str, Any] | None = None, **options: Any) -> Case:
    return _over(layers.RotaryEmbedding(**options), (None, *shape[2:]), vectors(*shape), **(call or {}))


def _tokens(recurrent: bool = False, **options: Any) -> Case:
    x = keras.Input((None,), dtype="int32", name="x")
    y = layers.TokenAndPositionEmbedding(WORDS, 12, FEATURES, **options)(x)
    array = ids(ROWS, STEPS)
    array[:, -3:] = 0
    return keras.Model(x, (keras.layers.LSTM(4) if recurrent else layers.TransformerEncoder(12, 2))(y)), {"x": array}


def _reversed(**options: Any) -> Case:
    x = keras.Input((None,), dtype="int32", name="x")
    layer = layers.ReversibleEmbedding(WORDS, FEATURES, **options)
    return keras.Model(x, layer(keras.layers.LayerNormalization()(layer(x)), reverse=True)), {"x": ids(ROWS, STEPS)}


def _head(ties: bool, **options: Any) -> Case:
    x = keras.Input((None,), dtype="int32", name="x")
    places = keras.Input((None,), dtype="int32", name="places")
    embedding = layers.ReversibleEmbedding(WORDS, FEATURES)
    y = layers.TransformerEncoder(12, 2)(embedding(x))
    source = {"token_embedding": embedding} if ties else {"vocabulary_size": 11}
    outputs = layers.MaskedLMHead(**source, **options)(y, places)
    return keras.Model([x, places], outputs), {"x": ids(ROWS, STEPS), "places": ids(ROWS, 2, high=STEPS)}


def _mixed() -> Case:
    """All composite layers in one model, one of them shared and one in TimeDistributed."""
    x = keras.Input((4, FEATURES), name="x")
    shared = layers.TransformerEncoder(12, 2, name="shared")
    y = shared(shared(x))
    y = keras.layers.TimeDistributed(keras.layers.Dense(FEATURES))(y)
    y = layers.FNetEncoder(12)(layers.TransformerDecoder(12, 2)(y, x))
    inner = keras.Model(x, y, name="inner")
    z = keras.Input((4, FEATURES), name="z")
    return keras.Model(z, inner(layers.TransformerEncoder(12, 2)(z))), {"z": vectors(ROWS, 4, FEATURES)}


_GELU = keras_hub.src.utils.keras_utils.gelu_approximate
_ATTENTION_MASK = (vectors(ROWS, STEPS, STEPS) > -0.5).astype("int32")

#: Name -> a model made of layers, whose file holds its graph.
LAYERS: dict[str, Callable[[], Case]] = {
    "encoder": _encoder,
    "encoder_padding": lambda: _encoder({"padding_mask": padding(), "closed": True}),
    "encoder_masks": lambda: _encoder({"padding_mask": padding(), "attention_mask": _ATTENTION_MASK}),
    "encoder_attention": lambda: _encoder({"attention_mask": _ATTENTION_MASK}, dropout=0.2),
    "encoder_scores": lambda: _encoder({"return_attention_scores": True, "padding_mask": padding()}),
    "encoder_first": lambda: _encoder({"padding_mask": padding()}, normalize_first=True, activation=_GELU),
    "encoder_heads": lambda: _encoder(features=10, heads=3, activation="gelu", layer_norm_epsilon=1e-3),
    "encoder_float64": lambda: _encoder({"padding_mask": padding()}, dtype="float64"),
    "encoder_bfloat16": lambda: _encoder({"padding_mask": padding()}, dtype="mixed_bfloat16"),
    "encoder_float16": lambda: _encoder({"padding_mask": padding()}, dtype="mixed_float16", dropout=0.1),
    "encoder_masked": _masked_encoder,
    "encoder_masked_first": lambda: _masked_encoder(normalize_first=True, dropout=0.1),
    "decoder": lambda: _decoder(False),
    "decoder_plain": lambda: _decoder(False, {"use_causal_mask": False}, dropout=0.1),
    "decoder_masks": lambda: _decoder(
        False, {"decoder_padding_mask": padding(), "decoder_attention_mask": _ATTENTION_MASK}, normalize_first=True
    ),
    "decoder_crosses": lambda: _decoder(
        True, {"encoder_padding_mask": padding(5), "encoder_attention_mask": _ATTENTION_MASK[:, :, :5]}
    ),
    "decoder_float16": lambda: _decoder(True, dtype="mixed_float16"),
    "decoder_masked": _masked_decoder,
    "decoder_cached": lambda: _cached_decoder(False),
    "decoder_crosses_cached": lambda: _cached_decoder(True),
    "attention": lambda: _cached_attention(attention_mask=_ATTENTION_MASK[:, :, :5]),
    "attention_scores": lambda: _cached_attention(return_attention_scores=True),
    "positions": lambda: _sums(layers.PositionEmbedding(12)),
    "positions_later": lambda: _sums(layers.PositionEmbedding(12), start_index=4),
    "positions_given": lambda: _sums(layers.PositionEmbedding(12), positions=ids(ROWS, STEPS, high=12)),
    "sine": lambda: _sums(layers.SinePositionEncoding()),
    "sine_later": lambda: _sums(layers.SinePositionEncoding(max_wavelength=500), start_index=3),
    "sine_given": lambda: _sums(layers.SinePositionEncoding(), positions=ids(ROWS, STEPS)),
    "rotary": lambda: _rotary((ROWS, STEPS, FEATURES)),
    "rotary_heads": lambda: _rotary((ROWS, STEPS, 2, 6), scaling_factor=2.0, max_wavelength=500),
    "rotary_axes": lambda: _rotary((ROWS, FEATURES, STEPS), sequence_axis=-1, feature_axis=1),
    "rotary_later": lambda: _rotary((ROWS, STEPS, FEATURES), {"start_index": 5}, denominator_dim=16),
    "rotary_given": lambda: _rotary((ROWS, STEPS, 2, FEATURES), {"positions": ids(ROWS, STEPS)}),
    "rotary_dynamic": lambda: _rotary((ROWS, STEPS, FEATURES), rope_type="dynamic", scaling_factor=4.0),
    "rotary_yarn": lambda: _rotary((ROWS, STEPS, 16), rope_type="yarn", scaling_factor=4.0),
    "rotary_yarn_whole": lambda: _rotary((ROWS, STEPS, 32), rope_type="yarn", scaling_factor=8.0, truncate=False),
    "tokens": _tokens,
    "tokens_masked": lambda: _tokens(mask_zero=True, tie_weights=False),
    "tokens_masked_lstm": lambda: _tokens(True, mask_zero=True),
    "reversed": _reversed,
    "reversed_untied": lambda: _reversed(tie_weights=False, mask_zero=True),
    "f_net": lambda: _over(layers.FNetEncoder(12), (None, FEATURES), vectors(ROWS, STEPS, FEATURES)),
    "f_net_float16": lambda: _over(
        layers.FNetEncoder(12, dropout=0.1, dtype="mixed_float16"), (None, FEATURES), vectors(ROWS, STEPS, FEATURES)
    ),
    "head": lambda: _head(True, intermediate_activation="gelu"),
    "head_alone": lambda: _head(False, activation="softmax"),
    "head_float16": lambda: _head(False, dtype="mixed_float16"),
    "alibi": lambda: _over(layers.AlibiBias(), (4, STEPS, 5), vectors(ROWS, 4, STEPS, 5)),
    "alibi_heads": lambda: _over(layers.AlibiBias(alibi_bias_max=6), (6, STEPS, 5), vectors(ROWS, 6, STEPS, 5)),
    "mixed": _mixed,
}

_TEXT = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12, "max_sequence_length": 9}
_RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 8],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_strides": [1, 2],
    "image_shape": (32, 32, 3),
}

#: Name -> a backbone, whose file holds its hyperparameters.
BACKBONES: dict[str, Callable[[], Any]] = {
    "albert": lambda: models.AlbertBackbone(
        vocabulary_size=WORDS, embedding_dim=6, num_groups=2, num_inner_repetitions=2, **{**_TEXT, "num_layers": 4}
    ),
    "bert": lambda: models.BertBackbone(vocabulary_size=WORDS, **_TEXT),
    "bert_plain": lambda: models.BertBackbone(vocabulary_size=WORDS, dropout=0.0, num_segments=3, **_TEXT),
    "bert_bfloat16": lambda: models.BertBackbone(vocabulary_size=WORDS, dtype="mixed_bfloat16", **_TEXT),
    "bert_half": lambda: models.BertBackbone(vocabulary_size=WORDS, dtype="bfloat16", **_TEXT),
    "distil_bert": lambda: models.DistilBertBackbone(vocabulary_size=WORDS, **_TEXT),
    "electra": lambda: models.ElectraBackbone(vocab_size=WORDS, embedding_dim=6, **_TEXT),
    "electra_equal": lambda: models.ElectraBackbone(vocab_size=WORDS, embedding_dim=8, **_TEXT),
    "f_net": lambda: models.FNetBackbone(
        vocabulary_size=WORDS, **{key: value for key, value in _TEXT.items() if key != "num_heads"}
    ),
    "roberta": lambda: models.RobertaBackbone(vocabulary_size=WORDS, **_TEXT),
    "xlm_roberta": lambda: models.XLMRobertaBackbone(vocabulary_size=WORDS, **_TEXT),
    "densenet": lambda: models.DenseNetBackbone(
        stackwise_num_repeats=[2, 1, 2], growth_rate=4, image_shape=(32, 32, 3)
    ),
    "vgg": lambda: models.VGGBackbone([1, 2], [4, 6], image_shape=(32, 32, 3)),
    "xception": lambda: models.XceptionBackbone(
        stackwise_conv_filters=[[4, 6], [8, 8], [8, 10], [12]],
        stackwise_pooling=[False, True, True, False],
        image_shape=(33, 35, 3),
    ),
    "resnet": lambda: models.ResNetBackbone(block_type="basic_block", **_RESNET),
    "resnet_bottleneck": lambda: models.ResNetBackbone(block_type="bottleneck_block", **_RESNET),
    "resnet_v2": lambda: models.ResNetBackbone(
        block_type="bottleneck_block", use_pre_activation=True, **{**_RESNET, "image_shape": (None, None, 3)}
    ),
    "resnet_v2_basic": lambda: models.ResNetBackbone(block_type="basic_block", use_pre_activation=True, **_RESNET),
    "resnet_vd": lambda: models.ResNetBackbone(
        block_type="bottleneck_block_vd",
        **{**_RESNET, "input_conv_filters": [4, 4, 8], "input_conv_kernel_sizes": [3, 3, 3]},
    ),
    "resnet_vd_basic": lambda: models.ResNetBackbone(block_type="basic_block_vd", **_RESNET),
}

#: Name -> a task on a backbone.
TASKS: dict[str, Callable[[], Any]] = {
    "albert_classifier": lambda: models.AlbertTextClassifier(BACKBONES["albert"](), 3),
    "bert_classifier": lambda: models.BertTextClassifier(BACKBONES["bert"](), 3, activation="softmax"),
    "bert_half_classifier": lambda: models.BertTextClassifier(BACKBONES["bert_half"](), 3),
    "bert_plain_classifier": lambda: models.BertTextClassifier(BACKBONES["bert_plain"](), 2, dropout=0.0),
    "bert_plain_masked": lambda: models.BertMaskedLM(BACKBONES["bert_plain"]()),
    "distil_bert_classifier": lambda: models.DistilBertTextClassifier(BACKBONES["distil_bert"](), 3, hidden_dim=5),
    "f_net_classifier": lambda: models.FNetTextClassifier(BACKBONES["f_net"](), 3),
    "roberta_classifier": lambda: models.RobertaTextClassifier(BACKBONES["roberta"](), 3, dropout=0.1),
    "xlm_roberta_classifier": lambda: models.XLMRobertaTextClassifier(BACKBONES["xlm_roberta"](), 3),
    "albert_masked": lambda: models.AlbertMaskedLM(BACKBONES["albert"]()),
    "bert_masked": lambda: models.BertMaskedLM(BACKBONES["bert"]()),
    "distil_bert_masked": lambda: models.DistilBertMaskedLM(BACKBONES["distil_bert"]()),
    "f_net_masked": lambda: models.FNetMaskedLM(BACKBONES["f_net"]()),
    "roberta_masked": lambda: models.RobertaMaskedLM(BACKBONES["roberta"]()),
    "xlm_roberta_masked": lambda: models.XLMRobertaMaskedLM(BACKBONES["xlm_roberta"]()),
    "resnet_classifier": lambda: models.ResNetImageClassifier(BACKBONES["resnet"](), 3, pooling="max"),
    "densenet_classifier": lambda: models.DenseNetImageClassifier(BACKBONES["densenet"](), 3, activation="softmax"),
    "xception_classifier": lambda: models.XceptionImageClassifier(BACKBONES["xception"](), 3, dropout=0.1),
    "vgg_classifier": lambda: models.VGGImageClassifier(BACKBONES["vgg"](), 3, pooling_hidden_dim=7),
    "vgg_classifier_flat": lambda: models.VGGImageClassifier(
        BACKBONES["vgg"](), 3, pooling="flatten", pooling_hidden_dim=7
    ),
}


#: Tasks without dropout, whose training can be compared.
TRAINED = ("bert_plain_classifier", "bert_plain_masked")


def arrays_for(model: Any) -> dict[str, Any]:
    """Arrays for a backbone or task, by input name."""
    arrays = {}
    for tensor in model.inputs:
        shape = tensor.shape
        if len(shape) == 4:
            arrays[tensor.name] = vectors(ROWS, *(length or 32 for length in shape[1:]))
        elif tensor.name == "padding_mask":
            arrays[tensor.name] = padding()
        else:
            high = {"segment_ids": 2, "mask_positions": STEPS}.get(tensor.name, WORDS)
            arrays[tensor.name] = ids(ROWS, 2 if tensor.name == "mask_positions" else STEPS, high=high)
    return arrays


def hub_model(name: str) -> Case:
    """A backbone or task, with varied weights, and arrays for it."""
    model = varied({**BACKBONES, **TASKS}[name]())
    return model, arrays_for(model)


def layer_model(name: str) -> Case:
    """A model of layers, with varied weights, and arrays for it."""
    keras.utils.clear_session()
    model, arrays = LAYERS[name]()
    return varied(model), arrays


def outputs_of(model: Any, arrays: Mapping[str, Any]) -> list[Any]:
    """The model's outputs in flat order, computed in inference."""
    given = model(dict(arrays) if isinstance(model.input, dict) else list(arrays.values()), training=False)
    return [keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) for y in keras.tree.flatten(given)]
