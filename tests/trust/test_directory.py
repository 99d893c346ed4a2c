"""The directory: a table, and differences of it that cost what they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import RemoteProtocolError
from bus.trust import directory as module
from bus.trust.directory import Change, Difference, Directory, Listing

ANY = Listing("x")


def copy_of(directory: Directory) -> dict[str, Listing | None]:
    return {name: directory.get(name) for name in directory}


def test_what_is_put_is_found_and_what_is_removed_is_not():
    directory = Directory()
    assert directory.put("DIRECTOR", Listing("command", b"papers"))
    assert directory.get("DIRECTOR") == Listing("command", b"papers", b"")
    assert (len(directory), directory.serial) == (1, 1)
    assert directory.remove("DIRECTOR")
    assert (directory.get("DIRECTOR"), len(directory), directory.serial) == (None, 0, 2)


def test_what_changes_nothing_has_no_serial():
    directory = Directory()
    directory.put("A", ANY)
    assert not directory.put("A", ANY)
    assert not directory.remove("B")
    assert directory.serial == 1


def test_it_follows_the_agents_of_a_policy_and_keeps_the_papers_that_it_had():
    directory = Directory()
    directory.follow({"A": "x", "B": "x"})
    directory.put("A", Listing("x", b"papers", b"inbox"))
    directory.follow({"A": "y", "C": "x"})
    assert copy_of(directory) == {"A": Listing("y", b"papers", b"inbox"), "C": ANY}
    before = directory.serial
    directory.follow({"A": "y", "C": "x"})
    assert directory.serial == before


def test_a_difference_holds_the_last_change_of_each_name_in_their_order():
    directory = Directory()
    for name in ("A", "B", "C"):
        directory.put(name, ANY)
    directory.put("A", Listing("y"))
    directory.remove("B")
    assert directory.since(3) == Difference(5, False, (Change(4, "A", Listing("y")), Change(5, "B", None)))
    assert directory.since(5).changes == ()


@pytest.mark.parametrize("serial", [0, 6, 1 << 40])
def test_who_has_seen_nothing_or_something_impossible_gets_everything(serial):
    directory = Directory()
    for name in ("A", "B"):
        directory.put(name, ANY)
    directory.remove("A")
    assert directory.since(serial) == Difference(3, True, (Change(2, "B", ANY),))


def test_those_who_went_away_are_forgotten_when_they_are_too_many(monkeypatch):
    monkeypatch.setattr(module, "MAX_GONE", 2)
    directory = Directory()
    for name in ("A", "B", "C", "D"):
        directory.put(name, ANY)
    seen = directory.serial
    for name in ("A", "B"):
        directory.remove(name)
    assert not directory.since(seen).whole
    directory.remove("C")
    assert directory.since(seen) == Difference(7, True, (Change(4, "D", ANY),))
    assert not directory.since(7).whole


def test_who_comes_back_is_not_gone_any_more(monkeypatch):
    monkeypatch.setattr(module, "MAX_GONE", 1)
    directory = Directory()
    for _ in range(5):
        directory.put("A", ANY)
        directory.remove("A")
    assert len(directory) == 0
    assert not directory.since(9).whole


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["A", "B", "C", "D"]), st.sampled_from(["x", "y", None]), st.booleans()), min_size=1, max_size=40
    )
)
def test_whoever_follows_has_the_same_table(steps):
    directory, follower, naive = Directory(), Directory(), {}
    for name, role, asks in steps:
        if role is None:
            directory.remove(name)
            naive.pop(name, None)
        else:
            directory.put(name, Listing(role))
            naive[name] = Listing(role)
        if asks:
            follower.take(directory.since(follower.serial))
            assert copy_of(follower) == naive == copy_of(directory)
            assert follower.serial == directory.serial
    late = Directory()
    late.take(directory.since(0))
    assert copy_of(late) == naive


def test_a_follower_can_be_followed():
    directory, follower = Directory(), Directory()
    directory.put("A", ANY)
    follower.take(directory.since(0))
    directory.put("B", ANY)
    directory.put("A", Listing("y"))
    follower.take(directory.since(1))
    assert follower.since(1) == directory.since(1)


def test_everything_anew_replaces_what_was_there():
    follower = Directory()
    follower.take(Difference(9, True, (Change(4, "A", ANY), Change(9, "B", ANY))))
    follower.take(Difference(3, True, (Change(2, "C", ANY),)))  # a broker that began anew
    assert copy_of(follower) == {"C": ANY}
    assert follower.serial == 3
    assert follower.since(2).whole


def test_to_hear_that_somebody_unknown_went_away_is_no_harm():
    follower = Directory()
    follower.take(Difference(4, False, (Change(4, "A", None),)))
    assert (len(follower), follower.serial) == (0, 4)


LONG = bytes(module.MAX_PAPERS_BYTES + 1)
IMPOSSIBLE = {
    "a serial that goes back": Difference(4, False, ()),
    "changes that do not ascend": Difference(9, False, (Change(8, "A", ANY), Change(7, "B", ANY))),
    "a change that was told before": Difference(9, False, (Change(5, "A", ANY),)),
    "a change from the future": Difference(9, False, (Change(10, "A", ANY),)),
    "a name twice": Difference(9, False, (Change(8, "A", ANY), Change(9, "A", None))),
    "a name that is none": Difference(9, False, (Change(9, "a", ANY),)),
    "everything, and somebody who is gone": Difference(9, True, (Change(9, "A", None),)),
    "papers that are too long": Difference(9, False, (Change(9, "A", Listing("x", LONG)),)),
    "an inbox certificate that is too long": Difference(9, False, (Change(9, "A", Listing("x", b"", LONG)),)),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_no_directory_says_is_malformed_and_changes_nothing(case):
    follower = Directory()
    follower.take(Difference(5, True, (Change(5, "OLD", ANY),)))
    with pytest.raises(RemoteProtocolError) as caught:
        follower.take(IMPOSSIBLE[case])
    assert caught.value.reason == "malformed"
    assert (copy_of(follower), follower.serial) == ({"OLD": ANY}, 5)


def test_a_broker_cannot_make_it_grow_without_end(monkeypatch):
    monkeypatch.setattr(module, "MAX_AGENTS", 3)
    follower = Directory()
    follower.take(Difference(3, True, tuple(Change(n, f"A{n}", ANY) for n in (1, 2, 3))))
    with pytest.raises(RemoteProtocolError):
        follower.take(Difference(4, False, (Change(4, "B", ANY),)))
    with pytest.raises(RemoteProtocolError):
        follower.take(Difference(4, True, tuple(Change(n, f"B{n}", ANY) for n in (1, 2, 3, 4))))
    follower.take(Difference(5, False, (Change(4, "A1", None), Change(5, "B", ANY))))
    assert list(follower) == ["A2", "A3", "B"]


def test_what_nobody_could_list_is_a_mistake_of_the_caller(monkeypatch):
    monkeypatch.setattr(module, "MAX_AGENTS", 1)
    directory = Directory()
    directory.put("A", ANY)
    for name, listing in (("a", ANY), ("A", Listing("x", LONG)), ("A", Listing("x", b"", LONG)), ("B", ANY)):
        with pytest.raises(ValueError, match=r"agent|papers"):
            directory.put(name, listing)
    assert copy_of(directory) == {"A": ANY}
