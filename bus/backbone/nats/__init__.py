"""A backbone on NATS JetStream: the same verbs as the journal's, for several brokers at once. See `backbone.py`."""
