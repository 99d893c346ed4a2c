"""The conformance check is a check: each backbone here is broken in one way, and each is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest

from bus.backbone import local, registry
from bus.backbone.class_log import ClassLog
from bus.backbone.consumer import LocalConsumer
from bus.backbone.dead import Cemetery
from bus.backbone.intake import Intake
from bus.backbone.interface import Delivery
from bus.backbone.local import LocalBackbone
from bus.backbone.memory import memory_backbone
from bus.backbone.memory_storage import MemoryStorage
from bus.backbone.storage import Commit
from bus.errors import BackboneError
from bus.flow.duplicates import Duplicates
from bus.flow.start import parse_start
from bus.flow.unsettled import Unsettled
from bus.testing import backbone_bench, check_backbone

pytestmark = pytest.mark.anyio

BROKEN: dict[str, tuple[type | object, str, Callable]] = {}


def broken(place: type | object, name: str) -> Callable[[Callable], None]:
    """This function in place of that method; it gets the method first."""

    def note(function: Callable) -> None:
        BROKEN[function.__name__] = (place, name, function)

    return note


@broken(Duplicates, "find")
def forgets_duplicates(find, self, keys, *, now_ms):
    return {}


@broken(Duplicates, "find")
def knows_only_ids(find, self, keys, *, now_ms):
    return {key: 1 for key in keys if find(self, [("DIRECTOR", key[1])], now_ms=now_ms)}


@broken(Intake, "_blocks")
def mixes_up_the_order(blocks, self, entries):
    return blocks(self, reversed([*entries]))


@broken(Intake, "append")
async def gives_positions_that_are_none(append, self, entries):
    return [position + 1 for position in await append(self, entries)]


@broken(Intake, "append")
async def takes_any_class(append, self, entries):
    return await append(self, [one if one.class_ in self.logs else one._replace(class_="work.>") for one in entries])


@broken(ClassLog, "add")
def loses_a_record(add, self, block):
    block.entries[:] = [entry for entry in block.entries if entry.envelope != b"e3"] or block.entries
    add(self, block)


@broken(LocalConsumer, "allow")
def hands_out_more_than_is_allowed(allow, self, records):
    allow(self, records + 1)


@broken(LocalConsumer, "take")
async def hands_everything_out_twice(take, self):
    return [delivery for delivery in await take(self) for _ in range(2)]


@broken(LocalConsumer, "take")
async def says_that_everything_comes_for_the_first_time(take, self):
    return [Delivery(*one._replace(deliveries=1)) for one in await take(self)]


@broken(LocalConsumer, "take")
async def loses_what_is_taken_by_who_is_cancelled(take, self):
    try:
        return await take(self)
    except anyio.get_cancelled_exc_class():
        self._cursor += 1
        raise


@broken(Unsettled, "ack")
def forgets_acks(ack, self, spans):
    return 1


@broken(Unsettled, "nak")
def takes_a_nak_for_an_ack(nak, self, spans, *, delay, now):
    return self.ack(spans), []


@broken(Unsettled, "nak")
def hands_out_again_without_a_delay(nak, self, spans, *, delay, now):
    return nak(self, spans, delay=0.0, now=now)


@broken(Unsettled, "touch")
def does_not_hear_touches(touch, self, spans, now):
    return True


@broken(LocalConsumer, "ring")
def sleeps_through_the_alarm(ring, self, now):
    return


@broken(Unsettled, "_overdue")
def never_gives_up(overdue, self, position, deliveries, given):
    overdue(self, position, 1, given)


@broken(Cemetery, "gave_up")
def throws_away_what_was_given_up(gave_up, self, consumer, given, reason):
    for one in given:
        consumer.buried(one.position)


@broken(Cemetery, "remove")
def keeps_dead_letters_for_ever(remove, self, letter):
    return


@broken(Cemetery, "_letter")
def forgets_why(letter, self, blocks, grave, record):
    return letter(self, blocks, grave._replace(reason="unknown"), record)


@broken(LocalConsumer, "requeue")
def requeues_nothing(requeue, self, position):
    return


@broken(registry, "first_row")
async def begins_at_the_beginning(first_row, *arguments, **times):
    return (await first_row(*arguments, **times))._replace(cursor=1)


@broken(registry, "first_row")
async def begins_now(first_row, *arguments, **times):
    return (await first_row(*arguments, **times))._replace(cursor=arguments[3].head + 1)


@broken(registry.Registry, "open")
async def opens_a_consumer_whatever_it_is(open_, self, name, *wanted, **options):
    known = self._consumers.get(name)
    if known is not None:
        wanted = (known.class_, known.pattern, parse_start(known.row.start))
    return await open_(self, name, *wanted, **options)


@broken(registry.Registry, "closed_before")
def keeps_unused_consumers(closed_before, self, time_ms):
    return []


@broken(registry.Registry, "closed")
async def forgets_a_consumer_that_is_closed(closed, self, consumer):
    await closed(self, consumer)
    self.forget(consumer)


@broken(LocalBackbone, "keep")
async def keeps_no_grants(keep, self, grants=(), papers=()):
    await keep(self, (), papers)


@broken(MemoryStorage, "drop")
async def drops_nothing(drop, self, retention):
    return


@broken(MemoryStorage, "drop")
async def drops_everything(drop, self, retention):
    self._grants.clear()
    self._blocks.clear()


@broken(local.LocalBackbone, "aclose")
async def does_not_say_that_it_is_closed(aclose, self):
    self._closed = True


@broken(MemoryStorage, "submit")
def fails_without_saying_so(submit, self, commit):
    submit(self, Commit(commit.done, changes=commit.changes, grants=commit.grants))


@contextmanager
def in_place(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    place, attribute, function = BROKEN[name]
    whole = getattr(place, attribute)
    with monkeypatch.context() as patch:
        patch.setattr(place, attribute, lambda *arguments, **options: function(whole, *arguments, **options))
        yield


@asynccontextmanager
async def make(clock):
    backbone = memory_backbone(clock)
    failed: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(backbone.run)
        try:
            yield backbone
        except Exception as error:  # noqa: BLE001  it passes on, without a group around it
            failed = error
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed


@pytest.mark.parametrize("name", sorted(BROKEN))
async def test_a_broken_backbone_is_found_out(name, monkeypatch):
    monkeypatch.setattr(backbone_bench, "PATIENCE_SECONDS", 0.2)
    with in_place(name, monkeypatch), pytest.raises((AssertionError, BackboneError, TimeoutError)):
        await check_backbone(make)


async def test_a_good_backbone_passes():
    await check_backbone(make)
