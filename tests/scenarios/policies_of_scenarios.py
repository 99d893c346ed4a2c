"""The bus of the scenarios: who speaks, who reads, and on what."""

POLICY = """
version: 1
domain: tpmbus.test
agents: {LEAD: lead, DEPUTY: lead, ALICE: worker, BOB: worker, CAROL: worker, DAVE: worker, EVE: guest}
roles:
  lead:
    key: ecc384/sha3-384
    publish: [tasks.>, work.>, control.>]
    subscribe: [results.>, tasks.>]
    key_origin: software
    environment: allow
  worker:
    key: ecc256/sha256
    publish: [results.>]
    subscribe: [">"]
    groups: [hands]
    key_origin: software
    environment: allow
  guest:
    key: ecc256/sha256
    publish: [results.guest]
    subscribe: [tasks.open]
    key_origin: software
    environment: allow
topics:
  - {match: work.>, class: durable, retention: 1d, ack_wait: 30s}
  - {match: control.>, signed_by: identity}
rollout: {sample_rate: 0}
"""
NAMES = ("LEAD", "DEPUTY", "ALICE", "BOB", "CAROL", "DAVE", "EVE")
