"""Errors of tables, and of pyarrow, as the server's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.values.table_files.table import MissingPackageError

from layerserve_server.datasets.data_store import StoreReadError
from layerserve_server.errors import InvalidRequestError, InvalidTensorError, NotTrainableError, ServerError


@contextlib.contextmanager
def refusing(label: str) -> Iterator[None]:
    """Turns errors into the server's; `label` names the file in those of Arrow."""
    try:
        yield
    except (ServerError, StoreReadError, MemoryError, SystemError):
        raise
    except MissingPackageError as error:
        raise NotTrainableError(str(MissingPackageError(error.label, " on the server"))) from None
    except InvalidTensor as error:
        raise InvalidTensorError(str(error)) from error
    except InvalidArgument as error:
        raise InvalidRequestError(str(error)) from error
    except Exception as error:  # Arrow raises many kinds of errors for corrupt data
        raise InvalidTensorError(f"{label}: {type(error).__name__}: {error}") from error
