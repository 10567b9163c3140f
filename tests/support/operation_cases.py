"""Calls of Keras's less common operations, for oracles: `cases(api)` names them, of floats x and y and integers i.

`api` is a release of Keras; what it doesn't have is left out, so that files of older releases can be made too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

#: Makes outputs of floats x and y in (0, 1) and integers i in -3..3, all (rows, 3, 4).
Case = Callable[[Any, Any, Any], Any]

MATRIX = np.random.default_rng(5).standard_normal((4, 3)).astype("float32")
SHIFTS = np.array([[1.0, 0.1, -0.5, 0.05, 0.9, 0.7, 0.0, 0.0], [0.9, 0.0, 1.5, -0.2, 1.1, -1.0, 0.0, 0.0]], "float32")
CORNERS = np.array([[[0, 0], [3, 0], [0, 2], [3, 2]]] * 2, "float32")
MOVED = CORNERS + np.random.default_rng(6).uniform(-0.4, 0.4, CORNERS.shape).astype("float32")


def spectral(ops: Any) -> dict[str, Case]:
    """Of keras.ops.math: Fourier transforms."""
    return {
        "fft": lambda x, y, i: list(ops.fft((x, y))),
        "fft2": lambda x, y, i: list(ops.fft2((x, y))),
        "ifft2": lambda x, y, i: list(ops.ifft2((x, y))),
        "rfft": lambda x, y, i: [*ops.rfft(x), *ops.rfft(x, fft_length=6)],
        "irfft": lambda x, y, i: [ops.irfft((x, y)), ops.irfft((x, y), fft_length=5)],
        "extract_sequences": lambda x, y, i: ops.extract_sequences(x, 3, 1),
        "stft": lambda x, y, i: [
            *ops.stft(ops.reshape(x, (-1, 12)), 4, 2, 4),
            *ops.stft(ops.reshape(x, (-1, 12)), 4, 2, 8, window="hamming"),
            *ops.stft(ops.reshape(x, (-1, 12)), 4, 1, 5, window=None, center=False),
        ],
        "istft": lambda x, y, i: [
            ops.istft((x, y), 6, 2, 6),
            ops.istft((x, y), 4, 2, 6, length=5),
            ops.istft((x, y), 6, 3, 6, window=None, center=False),
        ],
        "complex": lambda x, y, i: [
            ops.view_as_real(ops.view_as_complex(ops.stack([x, y], axis=-1))),
            ops.imag(ops.view_as_complex(ops.stack([x, y], axis=-1))),
            ops.absolute(ops.eig(ops.matmul(x, ops.transpose(x, (0, 2, 1))))[0]),
        ],
    }


def scattered(ops: Any) -> dict[str, Case]:
    """Values that go where indices say."""
    places = np.array([[0, 1], [1, 2], [0, 1]], "int32")
    names = ("segment_sum", "segment_max", "segment_min", "segment_prod")
    return {
        **{
            name: lambda x, y, i, name=name: [
                getattr(ops, name)(ops.reshape(x, (-1, 4)), ops.abs(ops.reshape(i[..., 0], (-1,))), num_segments=5),
                getattr(ops, name)(ops.reshape(i, (-1, 4)), ops.abs(ops.reshape(i[..., 0], (-1,))), num_segments=3),
            ]
            for name in names
        },
        "scatter": lambda x, y, i: [
            ops.scatter(ops.abs(i[0, :, :2]), x[0, :, 0], (4, 5)),
            ops.scatter(places, x[0], (2, 3, 4)),
        ],
        "scatter_update": lambda x, y, i: ops.scatter_update(x, places, y[0]),
        **{
            f"scatter_update_{how}": lambda x, y, i, how=how: ops.scatter_update(x, places, y[0], reduction=how)
            for how in ("add", "max", "min", "mul")
        },
        "bincount": lambda x, y, i: [
            ops.bincount(ops.reshape(ops.abs(i), (-1,)), minlength=6),
            ops.bincount(ops.abs(i[:, 0]), minlength=6),
        ],
    }


def searched(ops: Any) -> dict[str, Case]:
    """Order and search."""
    return {
        "argpartition": lambda x, y, i: ops.sort(ops.argpartition(10 * x, 1, axis=-1)[..., :2], axis=-1),
        "isin": lambda x, y, i: [ops.isin(i, [1, -2]), ops.isin(i, i[0, 0], invert=True)],
        "where_alone": lambda x, y, i: ops.where(i > 0),
        "unique": lambda x, y, i: [
            ops.unique(i, size=9),
            *ops.unique(ops.reshape(i, (-1,)), return_inverse=True, return_counts=True, size=8, fill_value=7),
            *ops.unique(ops.reshape(i, (-1,)), return_index=True, size=5),
            ops.unique(ops.reshape(i, (-1, 4)), axis=0, size=4),
        ],
        "unravel_index": lambda x, y, i: list(ops.unravel_index(ops.abs(i) * 3, (4, 5))),
        "select": lambda x, y, i: ops.select([x > 0.5, y > 0.5], [x, y * 2], default=0.25),
    }


def matrices(ops: Any) -> dict[str, Case]:
    """Products and decompositions."""

    def square(x: Any) -> Any:
        return ops.matmul(x, ops.transpose(x, (0, 2, 1))) + np.eye(3, dtype="float32")

    return {
        "kron": lambda x, y, i: ops.kron(x, y),
        "cdist": lambda x, y, i: ops.cdist(x, y),
        "corrcoef": lambda x, y, i: ops.corrcoef(x[:, 0]),
        "correlate": lambda x, y, i: [ops.correlate(x[0, 0], y[0, 0, :2], mode) for mode in ("valid", "same", "full")],
        "vander": lambda x, y, i: [ops.vander(x[0, 0]), ops.vander(x[0, 0], N=3, increasing=True)],
        "diagflat": lambda x, y, i: [ops.diagflat(x[0]), ops.diagflat(x[0, 0], k=-1)],
        "vsplit": lambda x, y, i: [*ops.vsplit(ops.concatenate([x, y]), 2), *ops.vsplit(x, [1])],
        "cholesky_inverse": lambda x, y, i: ops.cholesky_inverse(ops.cholesky(square(x))),
        "eigh": lambda x, y, i: [ops.eigh(square(x))[0], ops.abs(ops.eigh(square(x))[1])],
        "lstsq": lambda x, y, i: [ops.lstsq(x[0], y[0, :, 0]), ops.lstsq(ops.transpose(x[0]), ops.transpose(y[0]))],
        "lu_factor": lambda x, y, i: list(ops.lu_factor(square(x))),
        "matrix_rank": lambda x, y, i: [ops.matrix_rank(x), ops.matrix_rank(square(x), tol=1.5)],
        "pinv": lambda x, y, i: [ops.pinv(x), ops.pinv(x, rcond=0.2)],
        "qr": lambda x, y, i: [*ops.qr(x), *ops.qr(ops.transpose(x, (0, 2, 1)), mode="complete")],
        "svd": lambda x, y, i: [
            ops.svd(x)[1],
            ops.abs(ops.svd(x, full_matrices=False)[0]),
            ops.abs(ops.svd(x)[2][:, :3]),
            ops.svd(x, compute_uv=False),
        ],
        "slogdet": lambda x, y, i: list(ops.slogdet(square(x))),
        "einsum": lambda x, y, i: [
            ops.einsum("bij,bik,bil->bjkl", x, y, x),
            ops.einsum("...i,ij->...j", x, MATRIX),
            ops.einsum("bij->b", i),
        ],
    }


def made(ops: Any) -> dict[str, Case]:
    """Arrays from few numbers, other types, and other readings of the same array."""
    return {
        "linspace": lambda x, y, i: [
            ops.linspace(x, y, 5),
            ops.linspace(x, y, 4, dtype="float64"),
            ops.linspace(x, y, 4, endpoint=False),
        ],
        "logspace": lambda x, y, i: [ops.logspace(x, y, 5), ops.logspace(x, y, 3, endpoint=False, base=2)],
        "geomspace": lambda x, y, i: ops.geomspace(x, y, 4),
        "empty_like": lambda x, y, i: ops.empty_like(x)[:, :0],
        "array": lambda x, y, i: [ops.array(x), ops.array(i, "float32")],
        "view": lambda x, y, i: ops.view(x, "int32"),
        "saturate_cast": lambda x, y, i: [ops.saturate_cast(i * 100, "uint8"), ops.saturate_cast(x * 300, "int8")],
        "allclose": lambda x, y, i: [ops.allclose(x, y), ops.allclose(x, x + 1e-9)],
        "rearrange": lambda x, y, i: [
            ops.rearrange(x[0], "h w -> w h"),
            ops.rearrange(x[0], "h (w c) -> (h w) c", c=2),
            ops.rearrange(x[0], "h w -> (w h)"),
        ],
        "real": lambda x, y, i: [ops.real(x), ops.conj(x)],
    }


def types(ops: Any) -> dict[str, Case]:
    """Element types that meet, and that an operation widens."""
    return {
        "bool": lambda x, y, i: [
            ops.mod(x > 0.5, 2),
            ops.subtract(x > 0.5, x),
            ops.subtract(i, i > 0),
            ops.abs(x > 0.5),
            ops.square(i > 0),
            ops.argmax(i > 0, axis=1),
            ops.clip(i > 0, 0, 2),
            ops.where(i > 0, 3, 2),
            ops.where(i > 0, 1, 0.5),
        ],
        "integers": lambda x, y, i: [
            ops.normalize(i, order=1),
            ops.layer_normalization(i * 5),
            ops.quantile(i, 0.3, axis=1),
            ops.add(i, np.array([1, 2, 3, 4], "int32")),
        ],
        "without axes": lambda x, y, i: [
            ops.mean(x) + 0.5,
            ops.sum(i) / 2,
        ],
        "halves": lambda x, y, i: ops.cast(ops.quantile(ops.cast(x, "float16"), 0.5, axis=-1), "float32"),
        "rows and steps": lambda x, y, i: [
            ops.reshape(ops.matmul(ops.reshape(x, (-1, 4)), MATRIX), (-1, 3, 3)),
            ops.reshape(ops.reshape(x, (-1, 2)) * 2, (-1, 3, 4)),
        ],
    }


def neural(ops: Any) -> dict[str, Case]:
    """Of keras.ops.nn."""
    rng = np.random.default_rng(4)
    depthwise = rng.standard_normal((2, 2, 2, 3)).astype("float32")
    pointwise = rng.standard_normal((1, 1, 6, 5)).astype("float32")
    vector = rng.uniform(0.5, 1.5, 4).astype("float32")
    lengths = np.array([3, 2], "int32")
    return {
        "batch_normalization": lambda x, y, i: [
            ops.batch_normalization(x, vector, vector + 1, axis=-1),
            ops.batch_normalization(
                x, vector[:3], vector[1:], axis=1, offset=vector[:3], scale=vector[:3], epsilon=0.1
            ),
        ],
        "separable_conv": lambda x, y, i: [
            ops.separable_conv(ops.stack([x, y], axis=-1), depthwise, pointwise),
            ops.separable_conv(ops.stack([x, y], axis=-1), depthwise, pointwise, strides=2, padding="same"),
        ],
        "fold": lambda x, y, i: ops.fold(ops.reshape(x, (-1, 4, 3)), (2, 4), 2),
        "unfold": lambda x, y, i: [
            ops.unfold(ops.stack([x, y], axis=1), 2),
            ops.unfold(ops.stack([x, y], axis=1), (2, 3), padding=1, stride=(2, 1), dilation=1),
        ],
        "multi_hot": lambda x, y, i: [ops.multi_hot(ops.abs(i), 5), ops.multi_hot(i, 4, dtype="int32")],
        "psnr": lambda x, y, i: ops.psnr(x, y, 1.0),
        "polar": lambda x, y, i: ops.view_as_real(ops.polar(x, y)),
        "ctc_loss": lambda x, y, i: ops.ctc_loss(
            ops.abs(i[:, 0, :2]) % 3 + 1, x, ops.abs(i[:, 0, 0]) % 2 + 1, ops.abs(i[:, 0, 0]) % 2 + 2
        ),
        "ctc_decode": lambda x, y, i: [
            *ops.ctc_decode(x, lengths),
            *ops.ctc_decode(ops.concatenate([x, y], 1), lengths * 2, merge_repeated=False, mask_index=3),
            *ops.ctc_decode(ops.concatenate([x, y], 1), lengths * 2, "beam_search", beam_width=5, top_paths=2),
        ],
        "attention": lambda x, y, i: [
            ops.dot_product_attention(*[ops.expand_dims(t, 2) for t in (x, y, x)], bias=y[:, None, :, :3]),
            ops.dot_product_attention(*[ops.expand_dims(t, 2) for t in (x, y, x)], mask=i[:, None, :, :3] > -3),
            ops.dot_product_attention(*[ops.expand_dims(t, 2) for t in (x, y, x)], scale=0.3, is_causal=True),
        ],
        "layer_normalization": lambda x, y, i: [
            ops.layer_normalization(x, vector, vector, epsilon=0.01),
            ops.layer_normalization(x, vector, rms_scaling=True),
            ops.rms_normalization(x, vector, epsilon=0.01),
        ],
    }


def images(ops: Any) -> dict[str, Case]:
    """Of keras.ops.image."""

    def picture(x: Any, y: Any) -> Any:
        return ops.stack([x, y, x * y], axis=-1)

    return {
        **{
            f"affine_{interpolation}_{mode}": lambda x, y, i, interpolation=interpolation, mode=mode: (
                ops.image.affine_transform(
                    picture(x, y), SHIFTS, interpolation=interpolation, fill_mode=mode, fill_value=0.5
                )
            )
            for interpolation, mode in (
                ("bilinear", "constant"),
                ("bilinear", "reflect"),
                ("bilinear", "mirror"),
                ("nearest", "wrap"),
                ("nearest", "nearest"),
            )
        },
        "affine_one": lambda x, y, i: ops.image.affine_transform(picture(x, y)[0], SHIFTS[1]),
        "perspective": lambda x, y, i: [
            ops.image.perspective_transform(picture(x, y), CORNERS, MOVED),
            ops.image.perspective_transform(picture(x, y), CORNERS, MOVED, interpolation="nearest", fill_value=0.1),
        ],
        "map_coordinates": lambda x, y, i: [
            ops.image.map_coordinates(x[0], ops.stack([x[0] * 3, y[0] * 4]), order=1),
            ops.image.map_coordinates(i[0], ops.stack([x[0] * 3, y[0] * 4]), order=0, fill_mode="reflect"),
        ],
        "gaussian_blur": lambda x, y, i: [
            ops.image.gaussian_blur(picture(x, y)),
            ops.image.gaussian_blur(picture(x, y), (3, 3), (0.5, 2.0)),
        ],
        "sobel_edges": lambda x, y, i: ops.image.sobel_edges(picture(x, y)),
        "scale_and_translate": lambda x, y, i: [
            ops.image.scale_and_translate(
                picture(x, y)[0],
                (5, 6, 3),
                np.array([1.7, 0.8], "float32"),
                np.array([0.3, -0.4], "float32"),
                (0, 1),
                method,
                antialias=method == "cubic",
            )
            for method in ("linear", "cubic", "lanczos3")
        ],
        "ssim": lambda x, y, i: ops.image.ssim(picture(x, y), picture(y, x), filter_size=3),
        "resize": lambda x, y, i: [
            ops.image.resize(picture(x, y), (4, 6), interpolation="nearest"),
            ops.image.resize(picture(x, y), (2, 3), antialias=True),
            ops.image.resize(picture(x, y), (4, 3), crop_to_aspect_ratio=True),
            ops.image.resize(picture(x, y), (4, 3), pad_to_aspect_ratio=True, fill_value=0.5),
        ],
        "channels_first": lambda x, y, i: [
            ops.image.rgb_to_grayscale(ops.stack([x, y, x], axis=1), data_format="channels_first"),
            ops.image.resize(ops.stack([x, y, x], axis=1), (4, 6), data_format="channels_first"),
            ops.image.gaussian_blur(ops.stack([x, y, x], axis=1), data_format="channels_first"),
        ],
    }


FAMILIES: Mapping[str, Callable[[Any], dict[str, Case]]] = {
    "spectral": spectral,
    "scattered": scattered,
    "searched": searched,
    "matrices": matrices,
    "made": made,
    "types": types,
    "neural": neural,
    "images": images,
}
