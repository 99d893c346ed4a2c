"""The whole table of what the bus must reach, measured in one go: `make bench-targets`, or `scripts/bench-targets`.

    rows  ──►  running: one after the other, each with its time  ──►  outcomes  ──►  report: table; JSON and HTML after each row

    buses    beside nats-py, zenoh, CURVE and MLS, in pairs
    played   scenarios of `tpmbus bench run`
    crowd    what a message costs among ten thousand agents (../scale.py)

What was measured stays: a row that fails or takes too long keeps the figures it has, says why, and the next one begins.
"""
