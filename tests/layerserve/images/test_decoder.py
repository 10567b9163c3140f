import io
import pickle
import struct
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from layerserve.images.decoder import FORMATS, ImageDecoder, ImageError
from layerserve.images.options import ImageOptions
from layerserve.images.preprocessing import MODES
from layerserve.values.tensor_spec import TensorSpec
from PIL import Image

#: Pillow warns of palettes with transparency, as it does in Keras.
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")

MODES_OF_KERAS = {1: "grayscale", 3: "rgb", 4: "rgba"}


def photo(mode: str = "RGB", size: tuple[int, int] = (61, 47)) -> Image.Image:
    """Returns an image with slopes and edges, of this width and height."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(5).integers(0, 60, (height, width))
    planes = [(x * 4 + noise) % 256, (y * 5 + noise) % 256, (x * y + noise) % 256, (x + y * 3) % 256]
    image = Image.fromarray(np.stack(planes, -1).astype(np.uint8), "RGBA")
    if mode == "I;16":
        return Image.fromarray((planes[0] * 250 + planes[1]).astype(np.uint16))
    return image.convert("RGB").convert(mode) if mode in ("P", "CMYK", "1") else image.convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo(), "JPEG", exif=exif)


def frames(form: str) -> bytes:
    more = [photo("RGB").rotate(90 * turn) for turn in (1, 2)]
    return encoded(photo("RGB"), form, save_all=True, append_images=more)


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(photo(), "JPEG"),
    "jpeg-progressive": lambda: encoded(photo(), "JPEG", progressive=True, quality=60),
    "jpeg-gray": lambda: encoded(photo("L"), "JPEG"),
    "jpeg-cmyk": lambda: encoded(photo("CMYK"), "JPEG"),
    "jpeg-turned": turned,
    "png": lambda: encoded(photo(), "PNG"),
    "png-alpha": lambda: encoded(photo("RGBA"), "PNG"),
    "png-gray": lambda: encoded(photo("L"), "PNG"),
    "png-gray-alpha": lambda: encoded(photo("LA"), "PNG"),
    "png-16": lambda: encoded(photo("I;16"), "PNG"),
    "png-palette": lambda: encoded(photo("P"), "PNG"),
    "png-palette-alpha": lambda: encoded(photo("P"), "PNG", transparency=bytes(range(256))),
    "png-bits": lambda: encoded(photo("1"), "PNG"),
    "webp": lambda: encoded(photo(), "WEBP"),
    "webp-lossless-alpha": lambda: encoded(photo("RGBA"), "WEBP", lossless=True),
    "webp-frames": lambda: frames("WEBP"),
    "gif": lambda: encoded(photo("P"), "GIF"),
    "gif-frames": lambda: frames("GIF"),
    "gif-transparent": lambda: encoded(photo("P"), "GIF", transparency=3),
    "bmp": lambda: encoded(photo(), "BMP"),
    "bmp-palette": lambda: encoded(photo("P"), "BMP"),
    "bmp-bits": lambda: encoded(photo("1"), "BMP"),
}


def spec(*row: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("image", (None, *row), dtype)


def loaded(data: bytes, channels: int, **options: Any) -> np.ndarray:
    """Returns what `load_img` and `img_to_array` give."""
    image = keras.utils.load_img(io.BytesIO(data), color_mode=MODES_OF_KERAS[channels], **options)
    return keras.utils.img_to_array(image)


def outcome(make: Callable[[], np.ndarray]) -> Any:
    """Returns an array, or None for any error: what Pillow can't convert, Keras can't either."""
    try:
        return make()
    except Exception:
        return None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("channels", MODES_OF_KERAS)
def test_numbers_are_those_of_load_img(name: str, channels: int) -> None:
    data = FILES[name]()
    for size in ((47, 61), (20, 33), (90, 70)):
        for options in ({}, {"interpolation": "bilinear"}, {"interpolation": "lanczos", "keep_aspect_ratio": True}):
            expected = outcome(lambda: loaded(data, channels, target_size=size, **options))  # noqa: B023
            ours = {{"keep_aspect_ratio": "crop_to_aspect_ratio"}.get(key, key): one for key, one in options.items()}
            decode = ImageDecoder(spec(*size, channels), ImageOptions(**ours))
            got = outcome(lambda: decode(data))  # noqa: B023
            assert (got is None) == (expected is None)
            if expected is not None:
                assert got.dtype == np.float32
                np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("crop", [False, True])
def test_numbers_are_those_of_image_datasets(interpolation: str, crop: bool) -> None:
    """What `image_dataset_from_directory` does with an image that Pillow has read."""
    for file, channels in (("jpeg", 3), ("png-alpha", 4), ("png-16", 1), ("gif", 3)):
        data = FILES[file]()
        for size in ((47, 61), (20, 33), (90, 70), (1, 1), (200, 3)):
            resized = keras.ops.image.resize(
                loaded(data, channels), size, interpolation=interpolation, crop_to_aspect_ratio=crop
            )
            options = ImageOptions("image_dataset_from_directory", interpolation, crop)  # type: ignore[arg-type]
            got = ImageDecoder(spec(*size, channels), options)(data)
            # torch computes the same in another order.
            expected = keras.ops.convert_to_numpy(resized)
            rounding = 0 if interpolation == "nearest" else 4e-6 * expected.max()
            np.testing.assert_allclose(got, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("module", MODES)
def test_pixels_are_preprocessed_as_in_keras_applications(module: str) -> None:
    data = FILES["png"]()
    expected = getattr(keras.applications, module).preprocess_input(loaded(data, 3, target_size=(32, 32)))
    got = ImageDecoder(spec(32, 32, 3), ImageOptions(preprocess_input=module))(data)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_pixels_are_scaled_to_a_range(low: float, high: float) -> None:
    data = FILES["png"]()
    expected = low + loaded(data, 3) / 255 * (high - low)
    got = ImageDecoder(spec(47, 61, 3), ImageOptions(range=(low, high)))(data)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_axes_are_those_of_the_input() -> None:
    data = FILES["png"]()
    last, gray = loaded(data, 3), loaded(data, 1)
    np.testing.assert_array_equal(ImageDecoder(spec(3, 47, 61))(data), last.transpose(2, 0, 1))
    np.testing.assert_array_equal(ImageDecoder(spec(47, 61))(data), gray[..., 0])
    np.testing.assert_array_equal(ImageDecoder(spec(None, None, 3))(data), last)
    resized = loaded(data, 3, target_size=(10, 12))
    np.testing.assert_array_equal(ImageDecoder(spec(None, 12, 3), ImageOptions(size=(10, 12)))(data), resized)


@pytest.mark.parametrize(
    ("dtype", "numpy"), [("uint8", "uint8"), ("int32", "int32"), ("float16", "float16"), ("bfloat16", "float32")]
)
def test_dtypes_are_those_of_the_input(dtype: str, numpy: str) -> None:
    options = ImageOptions("image_dataset_from_directory")
    got = ImageDecoder(spec(20, 20, 3, dtype=dtype), options)(FILES["png"]())
    floats = ImageDecoder(spec(20, 20, 3), options)(FILES["png"]())
    assert got.dtype == numpy
    np.testing.assert_array_equal(got, floats.astype(numpy))


@pytest.mark.parametrize(
    ("shape", "options", "text"),
    [
        ((10, 10, 2), {}, r"input 'image': got shape \(None, 10, 10, 2\), expected rows of images"),
        ((10,), {}, "expected rows of images"),
        ((None, 10, 3), {}, "got one open length"),
        ((10, 10, 3), {"size": (5, 5)}, r"got size \[5, 5\], expected that of the input: \[10, 10\]"),
        ((10, 10, 1), {"preprocess_input": "vgg16"}, "expected 3 channels"),
    ],
)
def test_an_input_that_takes_no_such_images_is_refused(shape: Any, options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ImageDecoder(spec(*shape), ImageOptions(**options))


@pytest.mark.parametrize(
    ("dtype", "options", "text"),
    [
        ("string", {}, "got dtype string, expected one that holds pixels"),
        ("int8", {}, "got dtype int8"),
        ("uint8", {"range": (0, 1)}, "got dtype uint8 with range"),
    ],
)
def test_a_dtype_that_holds_no_such_pixels_is_refused(dtype: str, options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ImageDecoder(spec(10, 10, 3, dtype=dtype), ImageOptions(**options))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"loader": "tf"}, "loader: got 'tf', expected one of load_img, image_dataset_from_directory"),
        ({"interpolation": "area"}, "interpolation: got 'area' with loader 'load_img', expected one of nearest"),
        ({"preprocess_input": "resnet51"}, "expected a module of keras.applications: convnext"),
        ({"preprocess_input": "vgg16", "range": (0, 1)}, "expected one of the two"),
        ({"range": (1, 1)}, "expected two finite numbers that differ"),
        ({"size": (0, 5)}, "expected a height and a width from 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ImageOptions(**options)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Returns a PNG file with this header, and these chunks in place of pixels."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in (head, *chunks, (b"IEND", b"")):
        parts += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(kind + content))]
    return b"".join(parts)


def gif(width: int, height: int, frame: tuple[int, int]) -> bytes:
    """Returns the beginning of a GIF file of this size, whose first frame has another one."""
    palette = bytes(6)
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + palette
        + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00;"
    )  # fmt: skip


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def webp(width: int, height: int) -> bytes:
    """Returns a WebP file whose canvas has this size, with one tiny frame."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    parts = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + body
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "format"),
    "text": (lambda: b"no image", "format"),
    "another format": (lambda: encoded(photo(), "TIFF"), "format"),
    "an icon": (lambda: encoded(photo(), "ICO"), "format"),
    "a header only": (lambda: FILES["jpeg"]()[:8], "damaged"),
    **{
        f"half a {form}": (lambda form=form: (data := encoded(photo(), form))[: len(data) // 2], "damaged")
        for form in FORMATS
    },
    "no pixels": (lambda: png(10, 10), "damaged"),
    "a large png": (lambda: png(60000, 60000), "pixels"),
    "a wide png": (lambda: png(2**31 - 1, 1), "pixels"),
    "a long png": (lambda: png(70000, 1), "pixels"),
    "a large gif": (lambda: gif(65535, 65535, (1, 1)), "pixels"),
    "a large frame": (lambda: gif(1, 1, (65535, 65535)), "pixels"),
    "a large bmp": (lambda: bmp(60000, 60000), "pixels"),
    "a large webp": (lambda: webp(16383, 16383), "pixels"),
    "a text bomb": (lambda: png(2, 2, (b"zTXt", b"a\0\0" + zlib.compress(bytes(8 << 20)))), "damaged"),
    "a profile bomb": (lambda: png(2, 2, (b"iCCP", b"a\0\0" + zlib.compress(bytes(8 << 20)))), "damaged"),
    "many bytes": (lambda: FILES["png"]() + bytes(1 << 20), "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_good_image_is_refused_with_the_reason(name: str) -> None:
    make, reason = BAD[name]
    decode = ImageDecoder(spec(20, 20, 3), ImageOptions(max_bytes=1 << 20))
    with pytest.raises(ImageError, match="expected") as caught:
        decode(make())
    assert caught.value.reason == reason
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, str(again)) == (reason, str(caught.value))


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "bmp-palette"])
def test_cut_files_are_refused(name: str) -> None:
    decode, data = ImageDecoder(spec(8, 8, 3)), FILES[name]()
    for length in range(0, 9 * len(data) // 10, len(data) // 40):
        with pytest.raises(ImageError):
            decode(data[:length])
