from .array import DatasetArray
from .info import DatasetColumn, DatasetInfo

__all__ = ["DatasetArray", "DatasetColumn", "DatasetInfo"]
