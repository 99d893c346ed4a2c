"""The reference mix with a hook that does nothing on each side of every agent: a plain one where it says something, because the mix
hands over without waiting, and an async one where it hears."""

SCENARIO = {"version": 1, "about": "the mix, with hooks", "kind": "mix", "processes": 1, "rates": [1_000]}


def opened(agent):
    @agent.hooks.publish
    def as_it_is(_, record):
        return record

    @agent.hooks.deliver
    async def as_it_came(_, message):
        return message
