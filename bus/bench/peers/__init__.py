"""Other buses beside this one, in one run: `tpmbus bench peers`.

    catalogue ──► running ──► pairs: a run of tpmbus, a run of the other, who is first changes ──► comparison ──► table
                     │
                     └─► crew: processes of `worker` (a server, a reader, a sender), each with one `contender`

One small file a bus (`nats`, `zenoh`, `pyzmq`, `slim`, `agentmesh`, `ours`) says how that bus is used at its fastest in
a sensible program, and what it secures. Nothing else differs: bodies, windows, clocks, counts and processes are those of `workload`
and `worker`, for this bus as for all others. Packages of others are imported late, in the worker that needs them.
"""
