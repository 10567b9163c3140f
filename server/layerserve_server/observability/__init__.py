"""Metrics, traces and logs.

On the path of a request only times are noted. Spans, lines of the access log and files of samples are made in threads
(`background`), from bounded lists. What finds no room is dropped and counted. What is off costs a comparison with None.
"""
