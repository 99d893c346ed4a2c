"""Documentation writes down what happened: DOCGEN sums up each task that is done, TRANSLATOR translates, LIBRARIAN keeps both."""

import bus

SHELF = 1_000
"""Summaries that LIBRARIAN keeps."""


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()
    shelf: list[object] = []

    if agent.name == "DOCGEN":

        @on.on("results.deploy")
        async def sum_up(message: bus.Message) -> None:
            result = message.body
            text = f"{result['task']}, {result['goal']}, is deployed by {result['by']}"
            await agent.publish("summaries.task", {"task": result["task"], "text": text})

    if agent.name == "TRANSLATOR":

        @on.on("summaries.task")
        async def translate(message: bus.Message) -> None:
            await agent.publish("summaries.translated", {**message.body, "text": message.body["text"].upper()})

    if agent.name == "LIBRARIAN":

        @on.on("summaries.*")
        async def keep(message: bus.Message) -> None:
            shelf.append(message.body)
            del shelf[:-SHELF]

    return on
