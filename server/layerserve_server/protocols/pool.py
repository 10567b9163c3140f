"""The descriptor pool of the protocols that others have defined.

A process has one default pool, in which a name can be defined once: with `tritonclient`, `kserve` or TensorFlow in the
same process, a second definition of their messages there would fail.
"""

from __future__ import annotations

from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
for _module in (any_pb2, wrappers_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
