"""Security audits what is critical, and can cut an agent off.

SECURITYAUDITOR confirms what the TPM signed, INCIDENTRESPONSE opens an incident for each alarm, and CSO revokes whoever an incident
names as stolen: only security may say that there is one, and its role has `may: [revoke]`.
"""

import bus


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()

    if agent.name == "SECURITYAUDITOR":

        async def audit(message: bus.Message) -> None:
            task = message.body.get("task") if isinstance(message.body, dict) else None
            seen = {"of": message.sender, "topic": message.topic, "task": task, "signed_by": message.signed_by}
            await agent.publish("announcements.audited" if message.signed_by == "identity" else "incidents.unsigned", seen)

        for pattern in ("control.*", "deployment.*", "revocation.*", "policy.*"):
            on.on(pattern)(audit)

    if agent.name == "INCIDENTRESPONSE":

        @on.on("alarms.*")
        async def respond(message: bus.Message) -> None:
            await agent.publish("incidents.opened", {"alarm": message.topic, "from": message.sender, "about": message.body})

    if agent.name == "CSO":

        @on.on("incidents.stolen")
        async def revoke(message: bus.Message) -> None:
            await agent.authority.revoke(message.body["agent"])
            await agent.publish("revocation.done", {"agent": message.body["agent"], "why": message.topic})

    return on
