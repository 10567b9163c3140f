"""Scorers: what other programs send to their processes to apply a model to batches of rows."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from layerserve.calls.addresses import target
from layerserve.calls.connection import DEFAULT_TIMEOUT, TLS
from layerserve.calls.tokens import Token
from layerserve.errors import InvalidArgument, MissingInput, UnknownInput
from layerserve.prediction.prediction import output_names
from layerserve.scoring.batches import Batch, batch_of
from layerserve.scoring.columns import input_array, no_rows
from layerserve.scoring.open_models import OPEN, OpenModel
from layerserve.scoring.ray_data import scored
from layerserve.scoring.server_model import ServerModel, check_digest
from layerserve.scoring.spark import predict_udf
from layerserve.scoring.threads import limit_threads
from layerserve.values.inputs import unknown_name
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array

#: Group of the entry point that opens models on disk, which needs torch.
GROUP = "layerserve.local_models"
#: The variable with the modules of custom layers, which a server has, too.
PLUGINS = "LAYERSERVE_PLUGINS"

_RANDOM = secrets.token_hex(8)


class Scorer:
    """Applies one version of a model to batches of rows. Small when pickled: other processes open the model again.

        scorer = Scorer("models", "churn", columns=["id"])
        scored = scorer(batch)                # the column "id", and the outputs of the model

    The version is fixed when the scorer is made. Later a file with another digest is refused, in any process, so that
    no result is of two versions.

    Args:
        source: A path that exists here (a model file, a version's folder, a model's folder or a repository), which is
            computed in each process with torch; or the address of a server, as `Client` has it. Each process must
            find the same files at the path.
        model: Name of the model; not needed if there is only one.
        version: Its number. Default: of a path the newest, of a server the one that answers now.
        outputs: Names of outputs, or of any tensors of the graph. Default: all outputs of the model.
        columns: Columns of the batches to keep, such as the keys of rows.
        input_columns: Columns of the batches by input, if they have other names: {"features": "pixels"}, or several
            that become the last axis: {"features": ["age", "height"]}.
        token: Of a server, as `Client` has it.
        tls: Of a server, as `Client` has it.
        timeout: Of a request to a server, in seconds.

    Computing in this process keeps torch's number of threads. Another process takes as many as `OMP_NUM_THREADS` says,
    which Ray and Spark set to the cores that they give, and else one.

    Raises ModelNotFound, VersionNotFound, ModelNotReady, UnknownOutput, and InvalidArgument for wrong arguments.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        model: str | None = None,
        *,
        version: int | None = None,
        outputs: str | Sequence[str] | None = None,
        columns: Sequence[str] = (),
        input_columns: Mapping[str, str | Sequence[str]] | None = None,
        token: Token | None = None,
        tls: bool | TLS = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._is_path = _is_path(source)
        #: Absolute, as other processes have other working folders.
        self._source = os.path.abspath(source) if self._is_path else str(source)
        self._asked = output_names(outputs) or None
        self._connection: dict[str, Any] = {"token": token, "tls": tls, "timeout": timeout}
        self._plugins = os.environ.get(PLUGINS, "")
        self._made_in = _process()
        opened = self._open_version(model, version)
        self._identity = opened.identity
        #: The model, which is open as long as a scorer has it.
        self._opened: OpenModel | None = OPEN.get(self._key, lambda: opened)
        #: Columns of the batches that are kept.
        self.columns = (columns,) if isinstance(columns, str) else tuple(columns)
        self._check_columns()
        self._input_columns = self._checked(input_columns or {})

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._identity.model

    @property
    def version(self) -> int:
        """Number of the version."""
        return self._identity.version

    @property
    def digest(self) -> str:
        """SHA-256 digest of the model file, in hexadecimal; of several files, that of their digests and names."""
        return self._identity.digest

    @property
    def engine(self) -> str:
        """What computes: "server", or "process" for each process that has the scorer."""
        return "process" if self._is_path else "server"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of the model."""
        return self._identity.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs that are computed."""
        return self._identity.outputs

    @property
    def metadata(self) -> dict[str, str]:
        """Which model computes, for the metadata of results. Tables of Arrow have it in their schema."""
        return {
            "layerserve.model": self.model,
            "layerserve.version": str(self.version),
            "layerserve.digest": self.digest,
        }

    def __call__(self, batch: Any) -> Any:
        """Returns the kept columns and the outputs for a batch, as the same kind of batch.

        A batch is a dict of arrays, a RecordBatch or Table of pyarrow, or a DataFrame of pandas. Numbers are converted
        as `Client.predict` does. Arrow's lists of one size are axes of arrays, in inputs and outputs.

        Raises MissingInput if a column is missing, InvalidTensor for values that don't fit, ModelMismatch if the
        model's file was replaced, and the errors of `Client.predict`.
        """
        rows = batch_of(batch)
        self._check_present(rows)
        results = self._results(rows) if rows.rows else {spec.name: no_rows(spec) for spec in self.outputs}
        return rows.scored(self.columns, [(spec, results[spec.name]) for spec in self.outputs], self.metadata)

    def ray(
        self,
        dataset: Any,
        *,
        concurrency: int | tuple[int, int] = (1, 64),
        batch_size: int | None = 1024,
        num_cpus: float = 1,
        **options: Any,
    ) -> Any:
        """Returns a Dataset of Ray Data with the kept columns and the outputs for each row of a dataset.

        Args:
            dataset: Any Dataset of Ray Data, such as by `ray.data.read_parquet`.
            concurrency: Number of actors, or the fewest and the most of them. Each opens the model once.
            batch_size: Rows that are computed at a time.
            num_cpus: Cores of an actor, with a thread of torch each.
            options: Further arguments of `Dataset.map_batches`.

        Nothing is computed until the result is used. Ray starts an actor again that died, and repeats its batches.

        Example:
            scorer.ray(ray.data.read_parquet("rows")).write_parquet("scored")
        """
        return scored(self, dataset, concurrency, batch_size, num_cpus, options)

    def spark_udf(self, *, batch_size: int = 1024) -> Any:
        """Returns a function of Spark's columns, those of the model's inputs in their order, by `predict_batch_udf`.

        Its value is the output: a number, or an array if a row has axes. It is a struct of several outputs. As Spark
        has it, arrays of several axes are flat, in inputs and outputs, and a missing number is NaN. `columns` and
        `input_columns` don't count. `batch_size` is the number of rows that are computed at a time.

        Example:
            frame.withColumn("scores", scorer.spark_udf()("pixels"))

        Raises InvalidArgument if pyspark isn't installed, and InvalidTensor for outputs of a type that Spark lacks.
        """
        plain = copy(self)
        plain.columns, plain._input_columns = (), {}
        return predict_udf(plain, self.inputs, self.outputs, batch_size)

    def with_input_columns(self, columns: Mapping[str, str | Sequence[str]]) -> Scorer:
        """Returns a scorer of the same version that reads some inputs of other columns, as `input_columns` has them.

        Raises UnknownInput, and InvalidArgument for an input without a column.
        """
        made = copy(self)
        made._input_columns = self._input_columns | self._checked(columns)
        return made

    def __repr__(self) -> str:
        return f"Scorer({self._source!r}, {self.model!r}, version={self.version})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _results(self, rows: Batch) -> Mapping[str, Array]:
        arrays = {
            spec.name: self.array(spec, [(name, rows.column(name)) for name in columns])
            for spec, columns in self.sources()
            if set(columns) <= set(rows.names)
        }
        return self._open().run(arrays)

    def array(self, spec: TensorSpec, columns: Sequence[tuple[str, Any]]) -> Array:
        """Returns the array of an input, of its columns by name. Raises InvalidTensor."""
        return input_array(columns, spec, self._identity.images.get(spec.name))

    @property
    def _key(self) -> tuple[Any, ...]:
        found = self._identity
        asked = None if self._asked is None else tuple(self._asked)
        return self._source, found.model, found.version, found.digest, asked, *self._connection.values()

    def _open(self) -> OpenModel:
        """Returns the model, which is opened at the first batch of a process."""
        model = OPEN.get(self._key, partial(self._open_version, self.model, self.version))
        if model is not self._opened:
            check_digest(self._identity, model.identity.digest)
            self._opened = model
        return model

    def _open_version(self, model: str | None, version: int | None) -> OpenModel:
        if not self._is_path:
            return ServerModel(self._source, model, version, self._asked, **self._connection)
        limit_threads(is_maker=self._made_in == _process())
        for point in entry_points(group=GROUP):
            opened: OpenModel = point.load()(self._source, model, version, self._asked, self._plugins)
            return opened
        raise InvalidArgument(
            f"source: got the path {self._source!r}, but the package that computes isn't installed: "
            "pip install '.[server]' in the folder of the repository; or pass the address of a server"
        )

    def sources(self) -> list[tuple[TensorSpec, tuple[str, ...]]]:
        """Returns the inputs, each with the columns that it is made of."""
        return [(spec, self._input_columns.get(spec.name, (spec.name,))) for spec in self.inputs]

    def _check_present(self, rows: Batch) -> None:
        needed = [column for _, columns in self.sources() for column in columns]
        for column in (*needed, *self.columns):
            if rows.names.count(column) > 1:
                raise InvalidArgument(f"batch: got {rows.names.count(column)} columns {column!r}, expected one")
        # Only a server knows which inputs some of its outputs depend on.
        if (self._asked is None or self._is_path) and not set(needed) <= set(rows.names):
            missing = [column for column in needed if column not in rows.names]
            first = next(spec.name for spec, columns in self.sources() if missing[0] in columns)
            raise MissingInput(
                f"batch: got the columns {_listed(rows.names)}, but model {self.model!r} needs {_listed(needed)}: "
                f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing; a column of another name is given "
                f"as input_columns={{{first!r}: NAME}}"
            )
        if missing := [column for column in self.columns if column not in rows.names]:
            raise InvalidArgument(
                f"batch: got the columns {_listed(rows.names)}; {_listed(missing)} to keep "
                f"{'is' if len(missing) == 1 else 'are'} missing"
            )

    def _check_columns(self) -> None:
        made = [spec.name for spec in self.outputs]
        if taken := [column for column in self.columns if column in made]:
            raise InvalidArgument(
                f"columns: got {_listed(taken)}, but outputs of model {self.model!r} have this name; rename the column"
            )
        if len(set(self.columns)) != len(self.columns):
            raise InvalidArgument(f"columns: got {_listed(self.columns)}, expected each name once")

    def _checked(self, given: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
        known = [spec.name for spec in self.inputs]
        for name in given:
            if name not in known:
                raise UnknownInput(f"input_columns: {unknown_name('input', name, known)}")
        made = {name: (one,) if isinstance(one, str) else tuple(one) for name, one in given.items()}
        for name, columns in made.items():
            if not columns:
                raise InvalidArgument(f"input_columns: got no column for input {name!r}, expected one or several")
        return made


def _is_path(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a path rather than an address. Raises InvalidArgument if it is neither."""
    if os.path.exists(source):
        return True
    if not isinstance(source, str):
        raise InvalidArgument(f"source: path {os.fspath(source)!r} doesn't exist; expected a model file or a folder")
    try:
        target(source)
    except InvalidArgument:
        raise InvalidArgument(
            f"source: got {source!r}, expected a path that exists, or the address of a server as host:port"
        ) from None
    return False


def _process() -> str:
    """Identifies this process among those that have a scorer."""
    return f"{os.getpid()}-{_RANDOM}"


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(repr, columns)) or "none"
