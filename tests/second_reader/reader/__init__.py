"""A reader of the protocol that was written from `docs/spec` alone: nothing here was taken from `bus`, or looked at it.

It is slow, synchronous and without state on disk. Each file has the name of what it reads; numbers in its texts are parts of the
specification. What it refuses, it refuses with `Refused(code)`.
"""
