"""Images in folders of classes beside stock Keras's, and how they are sent: some at a time; errors name a file."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras.src.utils.dataset_utils import index_directory
from layerserve import InvalidArgument, InvalidTensor
from layerserve.datasets.content import ArrayContent, role_arrays
from layerserve.images import directory
from layerserve.images.directory import ImageRows, images_from_directory
from PIL import Image

SIZE = (7, 9)


@pytest.fixture
def folder(tmp_path):
    """Three classes with images of several formats, in folders below, beside other files."""
    rng = np.random.default_rng(0)
    files = [
        "dog/b.png",
        "dog/a.JPG",
        "dog/a/z.bmp",
        "cat/1.png",
        "cat/10.png",
        "cat/2.gif",
        "Ant/x y.jpeg",
        "Ant/é.png",
    ]
    for name in files:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*rng.integers(5, 20, 2), 3), np.uint8)
        Image.fromarray(pixels).save(path, {"jpg": "JPEG", "jpeg": "JPEG"}.get(path.suffix[1:].lower()))
    for name in ("dog/notes.txt", ".hidden/a.png", "loose.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.mark.parametrize("class_names", [None, ["dog", "Ant"]])
def test_files_and_labels_are_those_of_keras(folder, class_names):
    paths, labels, names = index_directory(
        str(folder), "inferred", (".bmp", ".gif", ".jpeg", ".jpg", ".png"), class_names, shuffle=False, verbose=False
    )
    found = images_from_directory(folder, class_names=class_names, image_size=SIZE)
    assert list(map(str, found.paths)) == paths
    assert (found.y.tolist(), found.y.dtype, list(found.class_names)) == (list(labels), np.int32, list(names))
    whole = images_from_directory(folder, "categorical", class_names=class_names, image_size=SIZE)
    assert whole.y.tolist() == np.eye(len(names))[labels].tolist()
    if class_names:
        two = images_from_directory(folder, "binary", class_names=class_names)
        assert (two.y.tolist(), two.y.shape) == ([[one] for one in labels], (len(labels), 1))


@pytest.mark.parametrize(("mode", "crop"), [("rgb", False), ("grayscale", True)])
def test_pixels_are_those_of_keras(folder, mode, crop):
    found = images_from_directory(folder, image_size=SIZE, color_mode=mode, crop_to_aspect_ratio=crop)
    loaded = [keras.utils.img_to_array(keras.utils.load_img(path, color_mode=mode)) for path in found.paths]
    expected = [keras.ops.image.resize(one, SIZE, crop_to_aspect_ratio=crop).cpu().numpy() for one in loaded]
    assert found.x.shape == (8, *SIZE, 3 if mode == "rgb" else 1)
    np.testing.assert_allclose(found.x[:], expected, atol=1e-3)


def test_a_slice_decodes_its_images_only(folder, monkeypatch):
    found = images_from_directory(folder, image_size=SIZE)
    read, read_bytes = [], directory.Path.read_bytes
    monkeypatch.setattr(directory.Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    assert found.x[2:4].shape == (2, *SIZE, 3)
    assert tuple(read) == found.paths[2:4]
    assert found.x[8:].shape == (0, *SIZE, 3)
    # The bytes of a dataset are made while they are sent.
    monkeypatch.setattr("layerserve.datasets.content.PIECE", 2 * 7 * 9 * 3 * 8)
    read.clear()
    pieces = ArrayContent(role_arrays(found.x, found.y, None, None)).pieces()
    read.clear()
    next(pieces)
    assert len(read) == 2
    assert len(b"".join(pieces)) > found.x[:].nbytes - 2 * 7 * 9 * 3 * 4


def test_encoded_images_are_rows_as_those_of_a_column_are(folder):
    found = images_from_directory(folder, image_size=SIZE)
    rows = ImageRows([path.read_bytes() for path in found.paths], SIZE)
    assert rows[:].tolist() == found.x[:].tolist()
    assert len(rows) == 8
    with pytest.raises(InvalidTensor, match=r"image 1: got 2 bytes that begin with b'no', expected a JPEG"):
        ImageRows([found.paths[0], b"no"], SIZE)[:]


def test_a_bad_image_is_named(folder):
    whole = (folder / "cat" / "1.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(whole[:60])
    found = images_from_directory(folder, image_size=SIZE)
    with pytest.raises(InvalidTensor, match=r"photos/cat/1\.png: got a damaged image"):
        found.x[:]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"label_mode": "onehot"}, "label_mode: got 'onehot', expected 'int', 'categorical' or 'binary'"),
        ({"label_mode": "binary"}, "label_mode: got 'binary' for 3 classes, expected two"),
        ({"class_names": ["dog", "cow"]}, r"class_names: got \['dog', 'cow'\], expected folders .*'Ant', 'cat', 'dog'"),
        ({"color_mode": "RGB"}, "color_mode: got 'RGB', expected one of grayscale, rgb, rgba"),
        ({"interpolation": "cubic"}, "interpolation: got 'cubic'"),
        ({"image_size": (0, 3)}, "size: got"),
        ({"image_size": 3}, "image_size or interpolation"),
    ],
)
def test_arguments_that_dont_fit_are_refused(folder, options, text):
    with pytest.raises(InvalidArgument, match=text):
        images_from_directory(folder, **options)


def test_a_directory_without_images_is_refused(tmp_path):
    (tmp_path / "dog").mkdir()
    with pytest.raises(InvalidArgument, match=r"got no images in folders of classes, expected \.bmp"):
        images_from_directory(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        images_from_directory(tmp_path / "nowhere")
