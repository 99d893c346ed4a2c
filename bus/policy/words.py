"""The words of the policy language: every key, its type, its limits, its default and what it means.

This is the only place where they are listed. Files are checked against it, and the JSON Schema for editors and
docs/reference/policy.md are made from it. What one key says about another is in `checks.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bus.policy.kinds import (
    DAY,
    MAX_RECORD_BYTES,
    MINUTE,
    PURPOSES,
    AgentName,
    Domain,
    GroupName,
    History,
    PatternText,
    Pcr,
    Priority,
    PurposeName,
    ReaderName,
    RoleName,
    Size,
    SuiteName,
    as_grant,
    as_group,
    duration,
    finite,
)


class Words(BaseModel):
    """A mapping of the policy language: unknown keys are mistakes, and a value is what it looks like."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=False)


class DenyWords(Words):
    """What the role may not do, whatever the lists above allow."""

    publish: list[PatternText] = Field(
        default=[], description="Topics on which the role never publishes.", examples=[["control.>"]]
    )
    subscribe: list[PatternText] = Field(default=[], description="Topics that the role never hears.", examples=[["payroll.>"]])


class UidWords(Words):
    """A local user who may use the keys of the role's agents, and what for."""

    uid: int = Field(ge=0, le=(1 << 32) - 2, description="The number of the user on this machine.", examples=[1001])
    purposes: list[PurposeName] = Field(
        default=list(PURPOSES),  # type: ignore[arg-type]  # a test compares the two lists
        min_length=1,
        description="What may be signed for this user; without it, everything.",
        examples=[["session", "envelope"]],
    )


class GroupWords(Words):
    """A queue group that the role may join, and where."""

    group: GroupName = Field(description='The name of the group; `"*"` for any.', examples=["builders"])
    topics: list[PatternText] = Field(
        default=[],
        description="Subscriptions that may be shared in the group; without it, everything that the role may hear.",
        examples=[["work.>"]],
    )


class RoleWords(Words):
    """What agents of one kind may do, and what their keys must be."""

    key: SuiteName = Field(description="The suite of the identity key: kind of key, slash, hash.", examples=["rsa3072/sha3-384"])
    publish: list[PatternText] = Field(
        default=[],
        description="Topics on which the role may publish. `*` stands for one token, a final `>` for the rest.",
        examples=[["tasks.>"]],
    )
    subscribe: list[PatternText] = Field(default=[], description="Topics that the role may hear.", examples=[["results.*"]])
    deny: DenyWords = Field(
        default=DenyWords(), description="Exceptions: what is denied stays denied, whatever is allowed elsewhere."
    )
    groups: list[Annotated[GroupWords, BeforeValidator(as_group, json_schema_input_type=GroupName | GroupWords)]] = Field(
        default=[],
        description='Queue groups that the role may join: a name (`"*"`: any), or `{group, topics}`. Without it, none.',
        examples=[["builders"]],
    )
    uids: list[Annotated[UidWords, BeforeValidator(as_grant, json_schema_input_type=int | UidWords)]] = Field(
        default=[],
        description="Local users who may use these keys: a number or `{uid, purposes}`. Without it, only the state folder's owner.",
        examples=[[1001]],
    )
    key_origin: Literal["hardware", "software-tpm", "software"] = Field(
        default="software-tpm",
        description="The least that is accepted: a real TPM, any TPM, or also a key kept by software.",
        examples=["hardware"],
    )
    session: Annotated[int, *duration(MINUTE, 15 * MINUTE)] = Field(
        default=15 * MINUTE, description="How long a session certificate lasts, from 1m to 15m.", examples=["10m"]
    )
    inbox: Literal["x25519", "hybrid"] = Field(
        default="x25519",
        description="The kind of inbox and session keys; `hybrid` adds ML-KEM-768. Topics with `kem: hybrid` need it.",
        examples=["hybrid"],
    )
    environment: Literal["forbid", "allow"] = Field(
        default="forbid",
        description="Whether the environment may take these agents off the TPM; `allow` needs `key_origin: software`.",
        examples=["allow"],
    )
    may: list[Literal["enroll", "revoke", "policy"]] = Field(
        default=[], description="Administration that the role may ask for over the bus.", examples=[["revoke"]]
    )
    pcrs: list[Pcr] = Field(
        default=[], description="Platform registers (0 to 23) whose values the keys are bound to.", examples=[[0, 7]]
    )


class TopicWords(Words):
    """How messages of some topics travel and are kept. The most specific `match` decides, wherever it stands."""

    match: PatternText = Field(description="The topics that this rule is for.", examples=["work.>"])
    class_: Literal["live", "durable"] = Field(
        default="live",
        alias="class",
        description="`live`: to whoever listens now. `durable`: stored, and delivered until it was handled.",
    )
    retention: Annotated[int, *duration(MINUTE, 366 * DAY), BeforeValidator(finite)] = Field(
        default=7 * DAY, description="Durable only: how long messages are kept, from 1m to 366d.", examples=["7d"]
    )
    unit: Literal["envelope", "record"] | None = Field(
        default=None,
        description="What is delivered and acknowledged as one: `record` (default if durable) or `envelope` (default if live).",
        examples=["record"],
    )
    priority: Priority = Field(default="normal", description="The priority of a message that names none.", examples=["high"])
    priorities: list[Priority] | None = Field(
        default=None,
        min_length=1,
        description="What publishers may choose from. Without it, only `priority`.",
        examples=[["normal", "bulk"]],
    )
    ttl: Annotated[int, *duration(100, DAY)] = Field(
        default=MINUTE, description="Live only: the longest time between sending and delivery, from 100ms to 1d.", examples=["60s"]
    )
    signed_by: Literal["session", "identity"] = Field(
        default="session",
        description="Who must sign: the session key or, on critical topics, the identity key; only SHA-3 roles may then publish.",
        examples=["identity"],
    )
    kem: Literal["x25519", "hybrid"] = Field(
        default="x25519",
        description="The weakest key agreement that a reader may have; `hybrid` keeps recorded traffic from quantum computers.",
    )
    aead: Literal["aes-256-gcm", "xchacha20-poly1305"] = Field(default="aes-256-gcm", description="The cipher of the content.")
    cosign: Literal["ml-dsa-65"] | None = Field(
        default=None, description="A second, post-quantum signature. Needs `signed_by: identity`.", examples=["ml-dsa-65"]
    )
    history: History = Field(
        default=0,
        description="Durable only: what a newly entitled reader gets of the past: nothing (`entitled`), `all`, or a duration.",
        examples=["all"],
    )
    dead_readers: list[ReaderName] = Field(
        default=[],
        description="Durable only: roles or agents that may read what could not be delivered; they belong to the audience.",
        examples=[["MONITOR"]],
    )
    ack_wait: Annotated[int, *duration(1_000, DAY)] = Field(
        default=30_000,
        description="Durable only: after this time without an answer, from 1s to 1d, a message is delivered again.",
        examples=["30s"],
    )
    max_deliver: int = Field(
        default=5, ge=1, le=1_000, description="Durable only: deliveries before a message counts as dead.", examples=[5]
    )
    max_bytes: Size = Field(default=MAX_RECORD_BYTES, description="The largest message.", examples=["64KiB"])


class RolloutWords(Words):
    """How many of the agents that may do without the TPM use it, and how much of their traffic it vouches for."""

    tpm_percent: int = Field(
        default=100,
        ge=0,
        le=100,
        description="Of the agents whose role has `key_origin: software`, how many of a hundred use the TPM. The others always do.",
        examples=[60],
    )
    enabled: bool = Field(default=True, description="false: as `tpm_percent: 0`.", examples=[True])
    sample_rate: float = Field(
        default=0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="The part of session-signed messages that the identity key also vouches for afterwards.",
        examples=[0.01],
    )


class TrustWords(Words):
    """How old trust may get."""

    max_age: Annotated[int, *duration(5 * MINUTE, 7 * DAY)] = Field(
        default=60 * MINUTE,
        description="How long a trust statement is good for, 5m to 7d. It is also the longest delay of a revocation.",
        examples=["1h"],
    )


class TpmWords(Words):
    """Where the TPM keeps what is ours."""

    handle: int = Field(
        default=0x81000001,
        ge=0x81000000,
        le=0x817FFFFF,
        description="The persistent handle of the primary key, in the owner's range 0x81000000 to 0x817FFFFF.",
        examples=[0x81000001],
    )


class Document(Words):
    """One policy file. Several files of a folder add up; the same word in two of them is a mistake."""

    version: Literal[1] = Field(description="The version of the policy language.")
    domain: Domain = Field(
        default="tpmbus.local",
        description="The trust domain: the first part of every agent's SPIFFE name.",
        examples=["fleet.example"],
    )
    agents: Annotated[
        dict[AgentName, RoleName], BeforeValidator(lambda value: value, json_schema_input_type=dict[AgentName, RoleName] | str)
    ] = Field(
        default={},
        description='Which agent has which role (`"*"`: all other names). Or the path of a roster, relative to this file.',
        examples=["../agents/roster.yaml"],
    )
    roles: dict[RoleName, RoleWords] = Field(default={}, description="The roles, by name.")
    topics: list[TopicWords] = Field(
        default=[], description="Rules for topics. Topics without a rule are live, session-signed and of normal priority."
    )
    rollout: RolloutWords = Field(default=RolloutWords(), description="Moving agents to the TPM step by step.")
    trust: TrustWords = Field(default=TrustWords(), description="What is believed, and for how long.")
    tpm: TpmWords = Field(default=TpmWords(), description="What the TPM keeps for the fleet.")
    audit_readers: list[ReaderName] = Field(
        default=[], description="Roles or agents that may read the audit topics.", examples=[["security"]]
    )


def default_of(model: type[Words], name: str) -> Any:
    """What a word means where it is not written."""
    return model.model_fields[name].get_default()
