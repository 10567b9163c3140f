"""The part of `text_training.py` that stock Keras runs, under the interpreter of any tf.keras from 2.3 on, or Keras 3.

    PYTHON lab/proofs/text_training_oracle.py train DATA FOLDER
    PYTHON lab/proofs/text_training_oracle.py open DATA FOLDER

`train` makes a text classifier and a tabular model, saves them in every form of file that this Keras has, trains them
on the texts of DATA/reviews.json and DATA/rides.json, and writes the losses to FOLDER. `open` opens the files
FOLDER/*.published.* and writes what they predict.
"""

import inspect
import json
import os
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

keras = tf.keras
BATCH, EPOCHS = 8, 3


def layer(class_name, *args, **options):
    """A layer; before 2.6 those for text and categories were experimental, and lacked options."""
    found = getattr(keras.layers, class_name, None)
    if found is None:
        found = getattr(keras.layers.experimental.preprocessing, class_name)
    return found(*args, **options)


def adapted(made, data):
    made.adapt(tf.constant(data))
    return made


def classifier(data, terms):
    """Text -> class. The vocabulary is adapted, or `terms`: an .h5 holds no other."""
    text = keras.Input((1,), dtype="string", name="text")
    options = {"vocabulary": terms} if terms else {}
    words = layer("TextVectorization", max_tokens=40, output_sequence_length=6, name="words", **options)
    if not terms:
        adapted(words, data["text"])
    x = keras.layers.Embedding(40, 8, mask_zero=True, name="vectors")(words(text))
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    x = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    model = keras.Model(text, keras.layers.Dense(3, activation="softmax", name="stars")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def tabular(data, terms):
    """Numbers, an integer category, and two texts -> a price and a probability."""
    # In the order of their names, in which Keras 3.5 takes a dict.
    kinds = {"age": "float32", "city": "string", "day": "string", "distance": "float32", "seat": "int64"}
    inputs = {name: keras.Input((1,), dtype=kind, name=name) for name, kind in kinds.items()}
    parts = []
    for name in ("age", "distance"):
        scale = layer("Normalization", name="scale_" + name)
        parts.append(adapted(scale, np.array(data[name], "float32")[:, None])(inputs[name]))
    # Written out: which option names the unknown's number has changed between releases.
    cities = layer("StringLookup", name="cities", vocabulary=["berlin", "oslo", "łódź"])
    size = len(cities.get_vocabulary())
    one_hot = encoding("encode_city", size)
    parts.append(one_hot(cities(inputs["city"])))
    seats = layer("IntegerLookup", name="seats", vocabulary=[1, 2, 4])
    vectors = keras.layers.Embedding(len(seats.get_vocabulary()), 3, name="seat_vectors")(seats(inputs["seat"]))
    parts.append(keras.layers.Flatten(name="flat")(vectors))
    days = layer("Hashing", 7, name="days")(inputs["day"])
    parts.append(encoding("encode_day", 7)(days))
    if hasattr(keras.layers, "Discretization") and generation() >= (2, 6):
        bins = layer("Discretization", bin_boundaries=[20.0, 40.0, 60.0], name="bins")(inputs["age"])
        parts.append(encoding("encode_age", 4)(bins))
    if hasattr(keras.layers, "HashedCrossing"):
        crossed = layer("HashedCrossing", num_bins=9, name="crossed")((inputs["city"], inputs["day"]))
        parts.append(encoding("encode_cross", 9)(crossed))
    x = keras.layers.Concatenate(name="joined")(parts)
    x = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    price = keras.layers.Dense(1, name="price")(x)
    tip = keras.layers.Dense(1, activation="sigmoid", name="tip")(x)
    model = keras.Model(list(inputs.values()), [price, tip])
    # Two metrics or two lists: Keras 3 wants one for each output.
    model.compile("sgd" if generation() < (2, 5) else keras.optimizers.Adam(0.01), ["mse", "binary_crossentropy"])
    return model


def encoding(name, size):
    parameters = inspect.signature(layer_class("CategoryEncoding").__init__).parameters
    options = {"num_tokens" if "num_tokens" in parameters else "max_tokens": size}
    return layer(
        "CategoryEncoding", name=name, output_mode="multi_hot" if generation() >= (2, 6) else "binary", **options
    )


def layer_class(name):
    return getattr(keras.layers, name, None) or getattr(keras.layers.experimental.preprocessing, name)


def generation():
    version = getattr(keras, "__version__", tf.__version__)
    return tuple(int(part) for part in version.split(".")[:2])


def arrays(name, data):
    """x and y of a model, as its `fit` takes them."""
    if name == "classifier":
        return tf.constant(np.array(data["text"])[:, None]), np.array(data["stars"], "int64")
    kinds = {"age": "float32", "distance": "float32", "seat": "int64"}
    x = {key: np.array(data[key], kinds.get(key))[:, None] for key in ("age", "distance", "city", "day", "seat")}
    x = {key: tf.constant(value) for key, value in x.items()}
    return x, [np.array(data[key], "float32")[:, None] for key in ("price", "tip")]


def as_on_torch(model):
    """Makes Keras 3 compute on TensorFlow as on torch and JAX.

    Only on TensorFlow an embedding's gradient has no rows for unused words, whose moments then stay, and the losses of
    outputs are means over batches of unknown size.
    """
    optimizer = model.optimizer
    apply = optimizer.apply

    def dense(gradients, *arguments):
        return apply([tf.convert_to_tensor(gradient) for gradient in gradients], *arguments)

    optimizer.apply = dense
    model.run_eagerly = True


def files(name, folder):
    """Every form in which this Keras saves a whole model, as (path, whether it holds an adapted vocabulary)."""
    version = generation()
    if version >= (2, 12):
        yield folder / (name + ".keras"), True
    yield folder / (name + ".h5"), False
    if version < (3, 0):
        yield folder / (name + ".saved_model"), True


def read(data):
    with (data / "reviews.json").open(encoding="utf-8") as file:
        reviews = json.load(file)
    with (data / "rides.json").open(encoding="utf-8") as file:
        return {"classifier": reviews, "tabular": json.load(file)}


def train(data, folder):
    report = {"version": ".".join(map(str, generation()))}
    for name, make in (("classifier", classifier), ("tabular", tabular)):
        for path, adapts in files(name, folder):
            keras.backend.clear_session()
            keras.utils.set_random_seed(1) if hasattr(keras.utils, "set_random_seed") else tf.random.set_seed(1)
            try:
                terms = None if adapts else ["good", "bad", "film", "fun", "café", "dull", "long"]
                model = make(data[name], terms)
                model.save(str(path), **({"save_format": "tf"} if path.suffix == ".saved_model" else {}))
                x, y = arrays(name, data[name])
                if generation() >= (3, 0):
                    as_on_torch(model)
                history = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0).history
                report[path.name] = {key: [float(item) for item in value] for key, value in history.items()}
                reopen_own(model, x, path, folder)
            except Exception as error:  # an older release can't make or save it
                report[path.name] = f"{type(error).__name__}: {str(error)[:300]}"
    (folder / "trained.json").write_text(json.dumps(report))


def reopen_own(model, x, path, folder):
    """Writes what the trained model predicts after this Keras has saved and opened it: not always the same."""
    for suffix in (".keras", ".h5", ".saved_model"):
        own = folder / (path.name + ".own" + suffix)
        try:
            model.save(str(own), **({"save_format": "tf"} if suffix == ".saved_model" else {}))
            write_predictions(keras.models.load_model(str(own)), x, str(own) + ".npz")
        except Exception as error:  # not in this form
            print(own.name, type(error).__name__, file=sys.stderr)


def write_predictions(model, x, path):
    results = model.predict(x, verbose=0)
    np.savez(path, *(results if isinstance(results, (list, tuple)) else [results]))


def reopen(data, folder):
    report = {}
    for path in sorted(folder.glob("*.published.*")):
        name = path.name.split(".")[0]
        keras.backend.clear_session()
        try:
            model = keras.models.load_model(str(path))
            x, _ = arrays(name, data[name])
            write_predictions(model, x, str(path) + ".npz")
            report[path.name] = ""
        except Exception as error:
            report[path.name] = f"{type(error).__name__}: {str(error)[:600]}"
    (folder / "opened.json").write_text(json.dumps(report))


if __name__ == "__main__":
    command, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    (train if command == "train" else reopen)(read(source), target)
