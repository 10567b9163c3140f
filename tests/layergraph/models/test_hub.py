"""Models of KerasHub: files and preset folders that KerasHub wrote, compared with its outputs (make_hub.py)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
from layergraph.errors import ConfigError, CorruptFileError, GraphError, ModelFileError, UnsupportedModelError
from layergraph.layers.hub import RotaryEmbedding
from layergraph.models.hub.architecture import Architecture
from layergraph.models.hub.encoders import BertBackbone
from layergraph.models.hub.hub_model import HubModel
from layergraph.models.hub.image_classifiers import ImageClassifier
from layergraph.models.hub.table import HUB_MODELS
from layergraph.models.hub.tasks import BertMaskedLM, BertTextClassifier, Task
from oracles import assert_close

FIXTURES = Path(__file__).parents[2] / "fixtures" / "hub"
ARRAYS = FIXTURES / "arrays.npz"
#: Of KerasNLP 0.6 on Keras 2 (make_keras_nlp.py).
FORMER = sorted(FIXTURES.with_name("keras_nlp").glob("*.keras"))
FILES = sorted(file for file in FIXTURES.iterdir() if file.suffix in (".keras", ".h5"))
QUANTIZED = {"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8", "source_name": "float32"}}
SMALL = {"vocabulary_size": 20, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}


def arrays_of(name: str, file: Path) -> tuple[dict[str, Any], list[Any]]:
    """Inputs by name, and outputs in flat order."""
    with np.load(file) as stored:
        given = {key: stored[key] for key in stored.files if key.startswith(f"{name}/")}
    inputs = {key.partition("/input_")[2]: array for key, array in given.items() if "/input_" in key}
    return inputs, [given[f"{name}/output_{i}"] for i in range(len(given) - len(inputs))]


def check(model: Any, name: str, arrays: Path = ARRAYS) -> None:
    """Compares the model's outputs with KerasHub's."""
    inputs, outputs = arrays_of(name, arrays)
    if len(inputs) == 1:
        inputs = {model.input_names[0]: next(iter(inputs.values()))}
    for got, want in zip(model.plan().run(inputs).values(), outputs, strict=True):
        # Images add up to large numbers.
        scale = max(1.0, float(np.abs(want).max()))
        assert_close(np.asarray(got) / scale, want / scale, 1e-5)


def unpacked(name: str, folder: Path) -> Path:
    """The preset folder of a fixture."""
    with zipfile.ZipFile(FIXTURES / f"{name}_preset.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_give_the_numbers_of_keras_hub(file: Path) -> None:
    check(layergraph.load_model(file), file.stem)


def test_options_that_are_not_given_are_those_of_keras_hub() -> None:
    """The model of the fixture was made of a layer with these options."""
    inputs, (expected,) = arrays_of("rotary_yarn", ARRAYS)
    layer = RotaryEmbedding(rope_type="yarn", scaling_factor=4.0)
    assert_close(layer(next(iter(inputs.values()))), expected, 1e-5)


@pytest.mark.parametrize(
    ("name", "more", "lacks", "epsilon"),
    [
        ("AlbertBackbone", {"embedding_dim": 4}, "", 1e-12),
        ("BertBackbone", {}, "", 1e-12),
        ("DistilBertBackbone", {}, "", 1e-12),
        ("ElectraBackbone", {"embedding_dim": 4, "vocab_size": 20}, "vocabulary_size", 1e-12),
        ("FNetBackbone", {}, "num_heads", 1e-12),
        ("RobertaBackbone", {}, "", 1e-5),
    ],
)
def test_what_is_added_to_variances_is_as_in_keras_hub(
    name: str, more: dict[str, int], lacks: str, epsilon: float
) -> None:
    """Numbers show it for vectors of nearly equal features only."""
    options = {key: value for key, value in {**SMALL, **more}.items() if key != lacks}
    model = HubModel(HUB_MODELS[f"keras_hub>{name}"](**options))
    found = [getattr(layer, "epsilon", getattr(layer, "layer_norm_epsilon", None)) for layer in model.layers]
    assert [value for value in found if value is not None] == [epsilon, epsilon]


def test_all_layers_of_a_classifier_have_the_type_of_its_backbone() -> None:
    kind = HUB_MODELS["keras_hub>XceptionBackbone"]
    shape = {"stackwise_conv_filters": [[2]], "stackwise_pooling": [False], "image_shape": (4, 4, 3)}
    model = HubModel(ImageClassifier(backbone=HubModel(kind(**shape, dtype="bfloat16")), num_classes=2))
    types = {layer.name: layer.compute_dtype for layer in model.layers[-3:]}
    assert types == dict.fromkeys(("pooler", "output_dropout", "predictions"), "bfloat16")


#: Models whose layers have the type of their backbone; in KerasHub, those of VGG's and DenseNet's backbones have not.
TYPED = [
    *("albert_classifier", "bert_classifier", "bert_masked", "distil_bert_classifier", "electra", "f_net_classifier"),
    *("resnet_v2", "roberta_classifier", "xception_classifier", "xlm_roberta_masked"),
]


def in_bfloat16(architecture: Architecture) -> HubModel:
    """A model of the same class and size that computes in bfloat16."""
    own = ("name", "trainable", "dtype", "backbone", "preprocessor")
    options = {key: value for key, value in architecture.get_config().items() if key not in own}
    if isinstance(architecture, Task):
        return HubModel(type(architecture)(backbone=in_bfloat16(architecture.backbone.architecture), **options))
    return HubModel(type(architecture)(dtype="bfloat16", **options))


@pytest.mark.parametrize("name", TYPED)
def test_all_layers_have_the_type_of_their_backbone(name: str) -> None:
    model = in_bfloat16(layergraph.load_model(FIXTURES / f"{name}.keras").architecture)
    layers = [layer for layer in model.walk_layers() if not layer.is_operation and layer.name not in model.input_names]
    types = {layer.name: layer.dtype_policy.name for layer in layers}
    assert types == dict.fromkeys(types, "bfloat16")


@pytest.mark.parametrize("block_type", ["basic_block_vd", "bottleneck_block_vd"])
def test_images_of_odd_sizes_pass_a_shortcut(block_type: str) -> None:
    stem = {"input_conv_filters": [4], "input_conv_kernel_sizes": [7], "block_type": block_type}
    stacks = {"stackwise_num_filters": [4, 4], "stackwise_num_blocks": [1, 1], "stackwise_num_strides": [1, 2]}
    model = HubModel(HUB_MODELS["keras_hub>ResNetBackbone"](**stem, **stacks, image_shape=(36, 36, 3)))
    assert model.output_shape[1:3] == (5, 5)


@pytest.mark.parametrize(
    "name", ["bert_masked", "vgg_classifier", "mixed", "decoder_crosses", "head", "encoder_masked"]
)
def test_what_is_saved_again_is_the_same_model(name: str, tmp_path: Path) -> None:
    file = tmp_path / "again.keras"
    layergraph.load_model(FIXTURES / f"{name}.keras").save(file)
    check(layergraph.load_model(file), name)
    with zipfile.ZipFile(FIXTURES / f"{name}.keras") as before, zipfile.ZipFile(file) as after:
        old, new = (json.loads(archive.read("config.json")) for archive in (before, after))
    assert _described(new) == _described(old)
    assert _arguments(new) <= _arguments(old)


def _described(config: Any) -> Any:
    """Classes and hyperparameters, as KerasHub reads them."""
    ignored = {"module", "build_config", "compile_config", "shared_object_id", "inbound_nodes", "input_axes"}
    if isinstance(config, dict):
        # Keras's own layers have options that their files may leave out.
        known = {key: _described(value) for key, value in config.items() if key not in ignored}
        return known if str(known.get("registered_name")).startswith("keras_hub>") else None
    return config


def _arguments(config: Any) -> set[tuple[str, str]]:
    """Keyword arguments of calls of KerasHub's layers: it takes no others, and no masks that come with inputs."""
    layers = [layer for layer in config["config"].get("layers", []) if "keras_hub>" in str(layer["registered_name"])]
    return {(layer["name"], name) for layer in layers for node in layer["inbound_nodes"] for name in node["kwargs"]}


@pytest.mark.parametrize("name", ["bert_classifier", "electra"])
def test_preset_folders_give_the_numbers_of_keras_hub(name: str, tmp_path: Path) -> None:
    model = layergraph.load_model(unpacked(name, tmp_path))
    check(model, name)
    assert model.file_suffix == ".keras"


def test_a_preset_without_the_weights_of_its_task_is_refused(tmp_path: Path) -> None:
    (unpacked("bert_classifier", tmp_path) / "task.weights.h5").unlink()
    with pytest.raises(CorruptFileError, match=r"layer 'logits' \(Dense\): has no weights in the preset"):
        layergraph.load_model(tmp_path)


def test_a_preset_with_weights_in_several_files_is_refused(tmp_path: Path) -> None:
    unpacked("electra", tmp_path)
    (tmp_path / "model.weights.h5").unlink()
    (tmp_path / "model.weights.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="weights are in several files"):
        layergraph.load_model(tmp_path)


def test_a_preset_is_loaded_in_float32(tmp_path: Path) -> None:
    file = unpacked("bert_classifier", tmp_path) / "task.json"
    config = json.loads(file.read_text())
    config["config"]["backbone"]["config"]["dtype"]["config"]["name"] = "mixed_bfloat16"
    file.write_text(json.dumps(config))
    check(layergraph.load_model(tmp_path), "bert_classifier")


def test_links_in_a_preset_are_not_followed(tmp_path: Path) -> None:
    folder = unpacked("bert_classifier", tmp_path / "preset")
    moved = tmp_path / "model.weights.h5"
    (folder / "model.weights.h5").rename(moved)
    (folder / "model.weights.h5").symlink_to(moved)
    with pytest.raises(ModelFileError):
        layergraph.load_model(folder)


def rewritten(name: str, change: Callable[[dict[str, Any]], object], tmp_path: Path) -> Path:
    """A fixture whose config is changed."""
    target = tmp_path / f"{name}.keras"
    with zipfile.ZipFile(FIXTURES / f"{name}.keras") as source, zipfile.ZipFile(target, "w") as out:
        for member in source.namelist():
            content = source.read(member)
            if member == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            out.writestr(member, content)
    return target


def test_names_of_the_former_package_are_known(tmp_path: Path) -> None:
    for name in ("bert_classifier", "encoder_first", "head"):
        file = rewritten(name, _renamed, tmp_path)
        check(layergraph.load_model(file), name)


@pytest.mark.parametrize("file", FORMER, ids=lambda file: file.name)
def test_files_of_keras_2_give_the_numbers_of_keras_nlp(file: Path, tmp_path: Path) -> None:
    """Token embeddings, or the backbones of tasks, are stored under attributes of the models."""
    model = layergraph.load_model(file)
    check(model, file.stem, file.with_suffix(".npz"))
    model.save(tmp_path / "again.keras", generation=3)
    check(layergraph.load_model(tmp_path / "again.keras"), file.stem, file.with_suffix(".npz"))


def _renamed(config: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(config).replace("keras_hub>", "keras_nlp>").replace("TextClassifier", "Classifier"))
    config.clear()
    config.update(changed)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"registered_name": "keras_hub>GemmaBackbone"}, "GemmaBackbone.*one of KerasHub's classes.*BertBackbone"),
        ({"registered_name": "keras_nlp>GemmaBackbone"}, "GemmaBackbone.*one of KerasHub's classes.*BertBackbone"),
        ({"num_layers": 10**9}, "option 'num_layers' is 1000000000, expected an integer from 0 to 1000"),
        ({"hidden_dim": 0}, "option 'hidden_dim' is 0, expected a positive integer"),
        ({"num_heads": 999}, "got 8 features, expected at least 999, one for each head"),
        ({"colour": "red"}, "option 'colour' = 'red' is not supported"),
        ({"vocabulary_size": None}, "option 'vocabulary_size' is None"),
        ({"dtype": QUANTIZED}, "option 'dtype'.*expected a dtype policy without quantization"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    def spoil(config: dict[str, Any]) -> None:
        for key, value in change.items():
            (config if key in config else config["config"]["backbone"]["config"])[key] = value

    with pytest.raises(UnsupportedModelError, match=text):
        layergraph.load_model(rewritten("bert_classifier", spoil, tmp_path))


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    def spoil(config: dict[str, Any]) -> None:
        config["config"]["backbone"]["config"]["intermediate_dim"] = 2**31

    with pytest.raises(CorruptFileError, match=r"weight 'kernel' has shape \(8, 12\) in the file"):
        layergraph.load_model(rewritten("bert_classifier", spoil, tmp_path))


def test_hyperparameters_are_given_by_name() -> None:
    for kind in ("Bert", "Roberta", "FNet"):
        with pytest.raises(ConfigError, match="got 1 positional arguments, expected at most 0"):
            HUB_MODELS[f"keras_hub>{kind}Backbone"](3, **SMALL)


def test_hyperparameters_that_do_not_fit_together_are_refused() -> None:
    lengths = {"input_conv_filters": [64], "input_conv_kernel_sizes": [7, 3], "block_type": "basic_block"}
    stacks = {"stackwise_num_filters": [64], "stackwise_num_blocks": [1], "stackwise_num_strides": [1]}
    with pytest.raises(ConfigError, match="expected equal numbers"):
        HUB_MODELS["keras_hub>ResNetBackbone"](**lengths, **stacks)
    with pytest.raises(ConfigError, match="expected a multiple of num_groups"):
        HUB_MODELS["keras_hub>AlbertBackbone"](embedding_dim=4, num_groups=2, **SMALL)
    x = layergraph.Input((4,))
    masked = BertMaskedLM(backbone=layergraph.Model({"x": x}, x + 1))
    with pytest.raises(GraphError, match="no ReversibleEmbedding"):
        HubModel(masked)


def test_a_whole_model_of_keras_hub_is_not_saved_where_it_could_not_be_opened(tmp_path: Path) -> None:
    model = layergraph.load_model(FIXTURES / "bert_classifier.keras")
    with pytest.raises(ConfigError, match=r"use \.keras"):
        model.save(tmp_path / "model.h5")
    with pytest.raises(ConfigError, match="BertTextClassifier"):
        model.save(tmp_path / "model.keras", generation=2)
    with pytest.raises(ConfigError, match="TransformerEncoder"):
        layergraph.load_model(FIXTURES / "encoder_masks.keras").save(tmp_path / "model.keras", generation=2)


def test_a_model_that_holds_a_backbone_is_saved_and_loaded(tmp_path: Path) -> None:
    backbone = HubModel(BertBackbone(**SMALL))
    outputs = layergraph.layers.Dense(2)(backbone(backbone.input)["pooled_output"])
    model = layergraph.Model(backbone.input, outputs)
    rows = {name: np.ones((2, 5), "int32") for name in model.input_names}
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        again = layergraph.load_model(tmp_path / f"model{suffix}")
        assert_close(again.predict(rows), model.predict(rows), 1e-6)
    with h5py.File(tmp_path / "model.h5") as file:
        assert '"keras_hub>BertBackbone"' in file.attrs["model_config"]


def test_a_text_classifier_trains() -> None:
    layergraph.utils.set_random_seed(3)
    model = HubModel(
        BertTextClassifier(backbone=HubModel(BertBackbone(dropout=0.0, **SMALL)), num_classes=2, dropout=0.0)
    )
    ids = np.random.default_rng(0).integers(0, 20, (64, 6)).astype("int32")
    inputs = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": np.ones_like(ids)}
    loss = layergraph.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(layergraph.optimizers.Adam(0.01), loss)
    before = model.get_weights()
    history = model.fit(inputs, (ids[:, 0] > 9).astype("int32"), epochs=12, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < 0.3 * history[0]
    unchanged = [i for i, (a, b) in enumerate(zip(before, model.get_weights(), strict=True)) if np.array_equal(a, b)]
    assert unchanged == []
