"""Security audits what is critical, and can have an agent cut off.

SECURITYAUDITOR confirms what the TPM signed, INCIDENTRESPONSE opens an incident for each alarm, and CSO asks for the revocation of
whoever an incident names as stolen.
"""

import bus


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()

    if agent.name == "SECURITYAUDITOR":

        @on.on("deployment.*")
        async def audit(message: bus.Message) -> None:
            seen = {"of": message.sender, "task": message.body["task"], "signed_by": message.signed_by}
            await agent.publish("announcements.audited" if message.signed_by == "identity" else "incidents.unsigned", seen)

    if agent.name == "INCIDENTRESPONSE":

        @on.on("alarms.*")
        async def respond(message: bus.Message) -> None:
            await agent.publish("incidents.opened", {"alarm": message.topic, "from": message.sender, "about": message.body})

    if agent.name == "CSO":

        @on.on("incidents.stolen")
        async def revoke(message: bus.Message) -> None:
            await agent.publish("revocation.requested", {"agent": message.body["agent"], "why": message.topic})

    return on
