"""Load tests that anybody can run and repeat: `tpmbus bench`.

    scenario (YAML or Python) ──► plan ──► processes that send and hear ──► readings ──► Step ──► Result ──► table, JSON, CSV, HTML
                                             │                                  ▲
    Order: number, rate, begin, window ──────┘        search: the steps so far ─┘─► the next rate

Pure, with no clock and no I/O: `scenario` (what is played), `record` (what every body begins with), `tally` (lost, doubled, out of
order), `ear` (what a reader has heard), `figures` (readings -> Step), `search`, `result`, `compare`, `report/`. The shell around
them is thin: `pace` (when is the next one due), `worker` (a process that sends and hears), `crowd` (starts and asks them),
`slow_tpm` (a TPM service as slow as a chip), `running` (runs, steps and their order).

How it is measured, for every row alike: messages leave by the clock and wait for nobody (an open loop), and a message's latency
counts from when it was *due*, so a stall counts for all who were due in it. The beginning is thrown away. Lost, doubled and
reordered messages are counted in every step.
"""
