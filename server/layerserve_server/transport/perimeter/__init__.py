"""What callers send, have open, or make the server keep: measured, and limited before it costs others.

`limits` lists every limit. `connections` watches the bytes and calls of each connection, `memory` counts the bytes of
all. `compression` and `message_size` look at a message before it is decompressed and parsed.
"""
