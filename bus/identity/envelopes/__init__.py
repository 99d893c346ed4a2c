"""Sealing and receiving: pure functions of bytes, one snapshot of policy and trust, the time and random bytes."""
