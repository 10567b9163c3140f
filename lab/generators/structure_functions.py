"""Functions of TensorFlow as users call them between layers of tf.keras models, which then keeps them as layers."""

import numpy as np


def function_of(tf, random, x, other):
    """The results of a random function of x (and of `other`, of the same shape) that come with rows.

    Raises what TensorFlow raises where the function doesn't take them.
    """
    choices = [*_anywhere(tf, tf.keras.backend, x, other), *_by_rank(tf, tf.keras.backend, x, other)]
    results = choices[random.randint(len(choices))]()
    results = results if isinstance(results, (list, tuple)) else [results]
    return [result for result in results if 0 < len(result.shape) < 6]


def _anywhere(tf, k, x, other):
    rank, width = len(x.shape), x.shape[-1]
    # K is what Keras's own functions are called in models.
    positive = tf.abs(x) + 0.5
    weights = tf.constant(np.linspace(0.1, 1, width), x.dtype)
    floats = lambda condition: tf.cast(condition, "float32")  # noqa: E731
    arithmetic = [
        lambda: x + other,
        lambda: 1.5 - x,
        lambda: x * weights,
        lambda: weights / positive,
        lambda: -x,
        lambda: abs(x),
        lambda: x**2,
        lambda: x // 0.3,
        lambda: x % 0.7,
        lambda: floats((x > 0.1) & (other < 0.4)),
        lambda: floats(~(x > 0.1)),
        lambda: tf.where(x > other, x, 0.0),
        lambda: tf.math.divide_no_nan(x, other),
        lambda: tf.maximum(0.0, tf.minimum(x, 0.6)),
        lambda: tf.clip_by_value(x, -0.5, 0.5),
        lambda: tf.math.log(positive) + tf.sqrt(positive) + tf.math.rsqrt(positive),
        lambda: tf.exp(tf.tanh(x)) + tf.sin(x) + tf.math.erf(x),
        lambda: tf.add_n([x, other, x]),
        lambda: tf.math.squared_difference(x, other),
    ]
    neural = [
        lambda: tf.nn.relu6(x) + tf.nn.leaky_relu(x, alpha=0.1) + tf.nn.gelu(x, approximate=True),
        lambda: tf.nn.softmax(x, axis=1) + tf.nn.log_softmax(x),
        lambda: tf.nn.l2_normalize(x, axis=-1),
        lambda: tf.nn.moments(x, axes=[-1], keepdims=True),
        lambda: tf.nn.batch_normalization(x, weights, weights, weights, weights, 0.01),
        lambda: tf.nn.bias_add(x, weights),
        lambda: k.relu(x, alpha=0.1, max_value=1.5) + k.elu(x, 0.5) + k.hard_sigmoid(x),
        lambda: k.binary_crossentropy(k.sigmoid(x), k.sigmoid(other)),
        lambda: k.l2_normalize(x, -1) * k.epsilon(),
    ]
    reductions = [
        lambda: tf.reduce_mean(x, axis=-1, keepdims=True),
        lambda: tf.reduce_sum(x, list(range(1, rank))),
        lambda: tf.reduce_max(x, axis=1),
        lambda: tf.math.reduce_std(x, axis=-1) + tf.reduce_logsumexp(x, axis=-1),
        lambda: floats(tf.reduce_any(x > 1, axis=-1)),
        lambda: tf.norm(x, axis=-1),
        lambda: k.mean(x, axis=1, keepdims=True),
        lambda: k.var(x, axis=-1),
        lambda: tf.cumsum(x, axis=1, exclusive=True, reverse=True),
        lambda: floats(tf.argmax(x, axis=-1)),
        lambda: tf.one_hot(tf.argmax(x, axis=-1), width),
        lambda: tf.math.top_k(x, k=1)[0],
        lambda: tf.sort(x, axis=-1, direction="DESCENDING"),
    ]
    shapes = [
        lambda: x[:, :1],
        lambda: x[:, -1],
        lambda: x[..., tf.newaxis, 1:],
        lambda: x[:, ::-1],
        lambda: tf.concat([x, other], axis=-1),
        lambda: k.concatenate([x, other], axis=1),
        lambda: tf.stack([x, other, x], axis=1),
        lambda: tf.split(x, [1, width - 1], axis=-1),
        lambda: tf.transpose(x, [0, *range(rank - 1, 0, -1)]),
        lambda: tf.reshape(x, (tf.shape(x)[0], -1, width)),
        lambda: tf.squeeze(tf.expand_dims(x, -1), [-1]),
        lambda: tf.tile(tf.expand_dims(x, 1), [1, 3, *[1] * (rank - 1)]),
        lambda: tf.repeat(x, 2, axis=-1),
        lambda: tf.pad(x, [[0, 0]] * (rank - 1) + [[1, 1]], constant_values=0.5),
        lambda: tf.gather(x, [0, 0], axis=-1),
        lambda: tf.reverse(x, axis=[1]),
        lambda: tf.roll(x, 1, axis=1),
        lambda: x * floats(tf.shape(x)[-1]),
        lambda: tf.fill([tf.shape(x)[0], 2], 0.5),
        lambda: tf.slice(x, [0] * rank, [-1, *[1] * (rank - 1)]),
        lambda: tf.tensordot(x, tf.ones((width, 2)), 1),
        lambda: k.dot(x, tf.ones((width, 2))),
    ]
    return [*arithmetic, *neural, *reductions, *shapes]


def _by_rank(tf, k, x, other):
    width = x.shape[-1]
    if len(x.shape) == 2:
        return [
            lambda: x @ tf.ones((width, 2)),
            lambda: tf.linalg.diag(x),
            lambda: tf.gather(x, tf.argmax(x, axis=1), axis=1, batch_dims=1),
            lambda: k.repeat(x, 3),
            lambda: k.batch_dot(x, other),
        ]
    if len(x.shape) == 3:
        return [
            lambda: tf.matmul(x, other, transpose_b=True),
            lambda: tf.unstack(x, axis=-1)[0],
            lambda: tf.linalg.band_part(x, 1, 0),
            lambda: tf.nn.conv1d(x, tf.ones((2, width, 2)) * 0.1, 1, "SAME"),
            lambda: k.batch_dot(x, other, axes=(2, 2)),
            lambda: k.temporal_padding(x),
        ]
    if len(x.shape) == 4:
        return [
            lambda: tf.image.resize(x, (5, 4)),
            lambda: tf.image.resize(x, [5, 8], method="bicubic"),
            lambda: tf.image.flip_left_right(x),
            lambda: tf.image.per_image_standardization(x),
            lambda: tf.image.resize_with_crop_or_pad(x, 4, 5),
            lambda: tf.nn.max_pool2d(x, 2, 2, "SAME"),
            lambda: tf.nn.conv2d(x, tf.ones((2, 2, width, 2)) * 0.1, 1, "SAME"),
            lambda: k.resize_images(x, 2, 2, "channels_last"),
            lambda: k.pool2d(x, (2, 2), strides=(2, 2), padding="same", pool_mode="avg"),
        ]
    return []
