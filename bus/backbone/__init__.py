"""What keeps accepted envelopes and hands them out again until they are settled."""
