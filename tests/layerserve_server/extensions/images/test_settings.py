"""Settings of inputs that take images."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import ROW, doubled, encoded
from layerserve import Client, InvalidTensor
from layerserve.images.options import ImageOptions
from layerserve_server.extensions.images.image_input import ImageInputs
from layerserve_server.extensions.installed import model_settings
from layerserve_server.repository.model_settings import ModelSettingsError, parse_settings

IMAGES = [encoded(seed=1), encoded((9, 2), seed=2)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[inputs.x]", "inputs.x.decode: got {}, expected Field required"),
        ('[inputs.x]\ndecode = "text"', "inputs.x.decode: got 'text', expected 'image'"),
        ('[inputs.x]\ndecode = "image"\nintepolation = "box"', "inputs.x.intepolation'; did you mean 'interpolation'?"),
        (
            '[inputs.x]\ndecode = "image"\nloader = "image_dataset_from_directory"\ninterpolation = "box"',
            "interpolation: got 'box' with loader 'image_dataset_from_directory', expected one of bilinear, nearest",
        ),
        ('[inputs.x]\ndecode = "image"\nsize = [0, 3]', "inputs.x.size.0: got 0, expected greater than or equal to 1"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(text, expected):
    with pytest.raises(ModelSettingsError) as caught:
        parse_settings(text.encode(), "layerserve.toml", model_settings())
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "row", "expected"),
    [
        ("[inputs.y]\ndecode = 'image'\n", ROW, "inputs.y: unknown input 'y'"),
        ("", (9, 5, 2), "inputs.x: input 'x': got shape (None, 9, 5, 2), expected rows of images"),
    ],
)
def test_a_model_whose_inputs_are_others_is_not_loaded(put_images, start, settings, row, expected):
    put_images(settings, row)
    app = start()
    (described,) = app.repository.catalogue.describe("double")
    assert expected in described.reason


def test_images_become_rows_as_the_settings_say(put_images, start):
    put_images('loader = "image_dataset_from_directory"\ncrop_to_aspect_ratio = true\nrange = [1, 2]\n')
    put_images('preprocess_input = "convnext"\ninterpolation = "bilinear"\n', model="pillow")
    with Client(f"127.0.0.1:{start().grpc_port}", timeout=60) as client:
        options = ImageOptions("image_dataset_from_directory", crop_to_aspect_ratio=True, range=(1, 2))
        assert client.predict("double", IMAGES).tolist() == doubled(IMAGES, options).tolist()
        options = ImageOptions(interpolation="bilinear", preprocess_input="convnext")
        assert client.predict("pillow", IMAGES).tolist() == doubled(IMAGES, options).tolist()


def test_a_version_is_loaded_again_if_they_change(put_images, start):
    put_images()
    app = start()
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        put_images("range = [0, 1]\n")
        app.repository.scan()
        assert client.predict("double", IMAGES).tolist() == doubled(IMAGES, ImageOptions(range=(0, 1))).tolist()


def test_images_of_an_input_of_any_size_keep_theirs(put_images, start, monkeypatch):
    row = (None, None, 3)
    put_images(row=row)
    with Client(f"127.0.0.1:{start().grpc_port}", timeout=60) as client:
        assert client.predict("double", IMAGES[:1]).tolist() == doubled(IMAGES[:1], row=row).tolist()
        assert np.shape(client.predict("double", [IMAGES[1]] * 3)) == (3, 2, 9, 3)
        with pytest.raises(InvalidTensor, match=r"row 2: got an image of shape \(2, 9, 3\), expected \(5, 6, 3\)"):
            client.predict("double", IMAGES)


def test_arrays_are_no_larger_than_those_of_a_request(put_images, start, monkeypatch):
    put_images()
    put_images(row=(None, None, 3), model="any")
    app = start(max_message_bytes=4096)
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        assert len(client.predict("double", [IMAGES[1]] * 28)) == 28
        with pytest.raises(InvalidTensor, match=r"got 29 images, whose arrays have 4176 bytes, expected at most 4096"):
            client.predict("double", [IMAGES[1]] * 29)
        with pytest.raises(InvalidTensor, match=r"got 20 images, of which one has 216 bytes as an array, expected at"):
            client.predict("any", [IMAGES[1]] * 20)


def test_models_without_such_inputs_have_no_decoders():
    settings = parse_settings(b"", "layerserve.toml", model_settings())
    assert ImageInputs(None, max_pixels=1, max_bytes=1).decoders(settings, ()) == {}
