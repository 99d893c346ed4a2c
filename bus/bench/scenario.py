"""A scenario file -> what is played. In YAML, every mistake with its line and column; or in Python, where hooks can be added.

A Python file says the same words in a mapping called SCENARIO, and may have any of:

    def opened(agent: bus.Agent) -> None                is called with every agent before anything is sent: to add hooks, say
    def body(number: int, size: int) -> bytes           what a body has behind its first 16 bytes; at most `size` of it
    async def hear(message: bus.Message) -> None        what a reader does with each message; its time counts
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from bus.bench.record import HEADER_BYTES, MAX_BODY_BYTES, MIN_BODY_BYTES
from bus.errors import PolicyError, Problem
from bus.policy import source
from bus.policy.kinds import MINUTE, Size, duration
from bus.policy.near import hint
from bus.policy.shape import node_at, place_at, shape
from bus.policy.words import Words

SHIPPED: Final = Path(__file__).parent / "scenarios"
MOST_AGENTS: Final = 10_000
MOST_PROCESSES: Final = 256
MOST_RATE: Final = 10_000_000.0
LEAST_SECONDS: Final = 0.01
MOST_SECONDS: Final = 3_600.0

Kind = Literal["stream", "requests", "mix", "start"]
Transport = Literal["embedded", "unix", "tls", "nats"]
"""`nats`: a hub and a gateway, who only reads at the second, and between them a nats-server that the harness starts."""
Delivery = Literal["live", "identity", "durable"]
Call = Literal["publish", "publish_many"]
Seconds = Annotated[int, *duration(round(LEAST_SECONDS * 1e3), 60 * MINUTE)]


class ScenarioWords(Words):
    version: Literal[1]
    about: str
    kind: Kind = "stream"
    transport: Transport = "unix"
    delivery: Delivery = "live"
    senders: int = 1
    readers: int = 1
    processes: int = 2
    size: Size = 256
    rates: list[float]
    warm: Seconds = 1_000
    window: Seconds = 4_000
    runs: int = 3
    call: Call = "publish"
    in_flight: int = 500
    kill_broker: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    about: str
    kind: Kind
    transport: Transport
    delivery: Delivery
    senders: int
    readers: int
    """Each hears every message."""
    processes: int
    """That senders and readers are spread over; hub and TPM service have their own. Embedded: 1, with the hub in it."""
    size: int
    rates: tuple[float, ...]
    """Messages a second, of all senders together: a step each. The first is where a search begins."""
    warm_seconds: float
    seconds: float
    runs: int
    call: Call
    in_flight: int
    """Durable: how many may be on their way to the disk. Requests: how many may wait for their replies."""
    kill_broker: bool
    """In the middle of each window, so that all have to come back."""
    program: str | None = None
    """The Python file, if it is one."""

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Scenario:
        return cls(**{**document, "rates": tuple(document["rates"])})


class Hooks(NamedTuple):
    """What a Python scenario brings along."""

    opened: Any = None
    body: Any = None
    hear: Any = None


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(word: str) -> Path:
    """The file that is meant: a path, or the name of a shipped scenario. Raises PolicyError."""
    if word in shipped():
        return SHIPPED / f"{word}.yaml"
    if (path := Path(word)).suffix in (".yaml", ".yml", ".py") and path.is_file():
        return path
    near = hint(word, shipped())
    text = f"there is no scenario of this name, and no file{near}: `tpmbus bench list` has the names; a file ends in .yaml or .py"
    raise PolicyError([Problem(word, 0, 0, text)])


def load(path: Path) -> Scenario:
    """Raises PolicyError with every mistake and its place."""
    if path.suffix == ".py":
        return _of_program(path)
    try:
        return read(path.read_bytes(), file=str(path))
    except OSError as error:
        raise PolicyError([Problem(str(path), 0, 0, f"cannot be read: {error}")]) from error


def read(text: str | bytes, *, file: str) -> Scenario:
    """Raises PolicyError with every mistake and its place."""
    root, problems, _ = source.read(text, file=file)
    if root is None:
        raise PolicyError(problems)
    words, mistakes = shape(root, ScenarioWords)
    problems += mistakes
    if words is not None:
        problems += [place_at(root, (key,)).problem(text) for key, text in _faults(words)]
    if problems or words is None:
        raise PolicyError(sorted(problems))
    return _made(words, Path(file).stem, None)


def hooks(program: str | None) -> Hooks:
    """Of a Python scenario, run anew in whichever process needs them."""
    return Hooks() if program is None else _hooks_of(runpy.run_path(program), program)


def _hooks_of(names: Mapping[str, Any], program: str) -> Hooks:
    """Raises PolicyError where one is no function, or `hear` none that can be awaited."""
    found = Hooks(*(names.get(name) for name in Hooks._fields))
    for name, hook in found._asdict().items():
        if hook is not None and (not callable(hook) or iscoroutinefunction(hook) != (name == "hear")):
            word = "`async def`" if name == "hear" else "a function, and no `async def`"
            raise PolicyError([Problem(program, 0, 0, f"{name}: is to be {word}, not {hook!r}")])
    return found


def checked(body: Callable[[int, int], bytes], room: int) -> Callable[[int], bytes]:
    """What the hook has to say, held to the size that the result names: number -> what stands behind the header.

    The function that comes back raises ValueError.
    """

    def said(number: int) -> bytes:
        words = body(number, room)
        if not isinstance(words, bytes):
            raise ValueError(f"body: of message {number} it gave {type(words).__name__}: bytes are wanted")  # noqa: TRY004  a mistake in a scenario, as the next one
        if len(words) > room:
            raise ValueError(f"body: of message {number} it gave {len(words):,} bytes: at most `size` are wanted, here {room:,}")
        return words

    return said


def changed(scenario: Scenario, **words: Any) -> Scenario:
    """With what the command line says instead; None changes nothing. Raises ValueError for what does not go together."""
    scenario = replace(scenario, **{name: value for name, value in words.items() if value is not None})
    if words.get("transport") == "embedded" and words.get("processes") is None:
        scenario = replace(scenario, processes=1)
    for key, seconds in (("window", scenario.seconds), ("warm", scenario.warm_seconds)):
        if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
            raise ValueError(f"{key}: from {LEAST_SECONDS} to {MOST_SECONDS:,.0f} seconds, not {seconds}")
    for key, text in _faults(_words_of(scenario)):
        raise ValueError(f"{key}: {text}")
    _try_body(scenario)
    return scenario


def _try_body(scenario: Scenario) -> None:
    """Once, before processes are started for it. Raises ValueError."""
    if (body := hooks(scenario.program).body) is None:
        return
    try:
        checked(body, scenario.size - HEADER_BYTES)(0)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"body: of message 0 it raised {type(error).__name__}: {error}") from error


def _words_of(scenario: Scenario) -> ScenarioWords:
    durations = {"warm": round(scenario.warm_seconds * 1e3), "window": round(scenario.seconds * 1e3)}
    same = {name: value for name, value in scenario.document().items() if name in ScenarioWords.model_fields}
    return ScenarioWords.model_construct(**{**same, **durations, "rates": list(scenario.rates), "version": 1})


def _faults(words: ScenarioWords) -> Iterator[tuple[str, str]]:
    """What the words say of each other, and their bounds."""
    bounds = {"senders": (1, MOST_AGENTS), "readers": (1, MOST_AGENTS), "processes": (1, MOST_PROCESSES)}
    bounds |= {"size": (MIN_BODY_BYTES, MAX_BODY_BYTES), "runs": (1, 100), "in_flight": (1, 100_000)}
    for key, (least, most) in bounds.items():
        if not least <= getattr(words, key) <= most:
            yield key, f"from {least:,} to {most:,}, not {getattr(words, key):,}"
    if not words.rates or not all(0 < rate <= MOST_RATE for rate in words.rates):
        yield "rates", f"at least one rate, each above 0 and at most {MOST_RATE:,.0f} a second"
    if words.transport == "embedded" and words.processes != 1:
        yield "processes", "embedded is one process, with the hub in it: write `processes: 1`"
    if words.kill_broker and (words.transport == "embedded" or words.kind not in ("stream", "mix")):
        yield "kill_broker", "there is no broker of its own to kill where all is embedded, and only streams and the mix go on"
    if words.kind == "start" and words.transport != "embedded":
        yield "transport", "a start is that of a program with its own hub: write `transport: embedded` and `processes: 1`"
    if words.kind == "requests" and (words.delivery == "durable" or words.readers != 1):
        yield "kind", "requests are live, and each is answered by one: `readers: 1`, and no `delivery: durable`"
    if words.call == "publish_many" and (words.kind != "stream" or words.delivery == "durable"):
        yield "call", "publish_many is for streams that are not durable: those are sent with receipts"


def _made(words: ScenarioWords, name: str, program: str | None) -> Scenario:
    return Scenario(
        name, words.about, words.kind, words.transport, words.delivery, words.senders, words.readers, words.processes, words.size,
        tuple(words.rates), words.warm / 1e3, words.window / 1e3, words.runs, words.call, words.in_flight, words.kill_broker,
        program,
    )  # fmt: skip


def _of_program(path: Path) -> Scenario:
    """Its words are held to the same rules. A mistake has the file's name, and the key: Python has no place for it."""
    try:
        names = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        raise PolicyError([Problem(str(path), 0, 0, f"does not run: {type(error).__name__}: {error}")]) from error
    said = names.get("SCENARIO")
    if not isinstance(said, Mapping):
        raise PolicyError([Problem(str(path), 0, 0, "has no mapping SCENARIO, with the words of a scenario in YAML")])
    root = _tree(dict(said), source.Place(str(path), 0, 0))
    words, problems = shape(root, ScenarioWords) if isinstance(root, source.Mapping) else (None, [])
    if words is not None:
        problems += [node_at(root, ()).place.problem(f"{key}: {text}") for key, text in _faults(words)]
    if problems or words is None:
        raise PolicyError(sorted(problems))
    _hooks_of(names, str(path))
    return _made(words, path.stem, str(path.absolute()))


def _tree(value: Any, place: source.Place) -> source.Node:
    """The same as if it had been read from YAML."""
    if isinstance(value, Mapping):
        entries = {str(key): _tree(one, place) for key, one in value.items()}
        return source.Mapping(place, entries, dict.fromkeys(entries, place))
    if isinstance(value, list | tuple):
        return source.Listing(place, [_tree(one, place) for one in value])
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return source.Scalar(place, text, plain=not isinstance(value, str))
