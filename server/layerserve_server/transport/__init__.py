"""gRPC transports: bytes in, bytes out. Handlers see the same calls and streams on each of them.

One thread of each transport receives calls, in batches of what has arrived (`event_batch`). Streams are coroutines in
one event loop (`streams`); what may block in them runs in a pool. No thread keeps Python's lock for long: long lists
are made one at a time (`list_call_queue`), since requests would wait behind them.

`perimeter` limits what callers send, have open, or make the server keep. One budget counts the memory that they take:
requests, replies that aren't read yet, and what the libraries buffer for a connection. Above it calls get
RESOURCE_EXHAUSTED, and the connection that keeps most is closed.
"""
