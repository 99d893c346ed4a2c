"""Command directs: DIRECTOR gives out tasks, and PROJECTORCHESTRATOR one in five.

COORDINATOR moves each on from step to step, QADIRECTOR has failures mended.
"""

import bus

GOALS = (
    "count the words",
    "draw the map",
    "find the way",
    "sort the mail",
    "weigh the parcels",
    "read the meters",
    "tune the bells",
)
LANGUAGES = ("python", "rust", "go", "c", "zig", "swift", "sql")
NEXT = {"build": "test", "test": "deploy"}

every_seconds = 1.0


async def beat(agent: bus.Agent, number: int) -> None:
    """A task each second. One in seven has a flaw that only testing finds."""
    if agent.name == ("DIRECTOR" if number % 5 else "PROJECTORCHESTRATOR"):
        task = {"task": f"T{number:04}", "goal": GOALS[number % 7], "language": LANGUAGES[number % 7], "flaw": number % 7 == 6}
        await agent.publish("tasks.build", task)


def handlers(agent: bus.Agent) -> bus.Handlers:
    on = bus.Handlers()

    if agent.name == "COORDINATOR":

        @on.on("results.*", durable="progress")
        async def move_on(message: bus.Message) -> None:
            result = message.body
            if result["ok"] and result["step"] in NEXT:
                await agent.publish(f"work.{NEXT[result['step']]}.{result['language']}", result)

    if agent.name == "QADIRECTOR":

        @on.on("results.test", durable="failures")
        async def have_it_mended(message: bus.Message) -> None:
            result = message.body
            if not result["ok"]:
                await agent.publish("tasks.fix", {**result, "flaw": False})

    return on
