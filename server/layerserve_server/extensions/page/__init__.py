"""The page: parts of it are replies of gRPC methods as HTML. Imported only if it is served (`--ui`).

The frame and its scripts are the same for all callers. A change needs the secret of the frame (`guard`). Only templates
make HTML, and they escape what they insert; scripts make none. Drawings are bounded by numbers, since a
model file decides how large they would be. Rates are differences between counts that readers have asked for (`rates`),
so nothing is sampled without a reader.
"""
