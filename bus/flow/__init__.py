"""What both ends of a link do, as values: no I/O, no clock, no randomness, no `await`."""
