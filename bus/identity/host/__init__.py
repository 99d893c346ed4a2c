"""The agents of one process: the keys that they share, and the session certificates that name these."""
