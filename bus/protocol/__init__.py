"""Bytes and values, and nothing else: no I/O, no clock, no randomness, no `await`."""
