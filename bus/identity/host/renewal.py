"""When the host's keys are changed, and who is waited for: renewal without a gap and without a storm.

    when      at a random point of 50 to 80 % of the lifetime, so that hosts that began together drift apart
    first     a new pair, certified for every open agent, a few at a time and below identity traffic; the old pair goes on signing
    then      all switch at once; the old pair signs nothing new. It proves itself on new links until the end of its last
              certificate, for what was signed before and goes again there, and opens for 60 s more
    refused   an agent whose own key is refused is left behind at the switch, and says why; the others do not wait for it
    no TPM    everybody waits, and signs with the old pair, until 98 % of its life. Then those who have a new certificate switch,
              and the others follow one by one. If nobody has one, the old pair goes on to its end, and the TPM is asked still

A session also ends before its time when the wall clock is set back behind its beginning, or forward past its end, when the
authority says that sessions begin later, or when the trust signer has a successor (the old one may have been revoked, and with it
every session that names its statements): each is seen within seconds, and answered by a renewal at once.

An identity that ends soon shortens its own sessions alone: they cannot be renewed to last longer, so they do not hurry the others.
"""

from __future__ import annotations

from typing import Final

import anyio

from bus.identity.host.attempts import LONGEST_REST_SECONDS, LONGEST_SECONDS, Pauses, within
from bus.identity.host.host_keys import HostKeys
from bus.identity.host.session import Session
from bus.identity.host.sessions import Sessions
from bus.protocol import kem
from bus.protocol.papers import MAX_SESSION_MS

EARLIEST: Final = 0.5
LATEST: Final = 0.8
"""Parts of the lifetime between which a renewal begins."""
LAST_CALL: Final = 0.98
"""The part of it after which those who are ready wait no longer for the others."""
SHORTEST_SECONDS: Final = 5.0
"""What the TPM has at least to answer in, however late it is."""
LOOK_SECONDS: Final = 5.0
"""How often to look for a clock that jumped, for agents left behind, and for keys whose time is over."""


async def run(sessions: Sessions) -> None:
    """Renew, until cancelled. One task a process."""
    rests = Pauses(sessions.random, longest=LONGEST_REST_SECONDS)
    rest_until = 0.0
    while True:
        await _wait(sessions, rest_until - sessions.clock.monotonic())
        sessions.drop()
        if sessions.clock.monotonic() < rest_until:
            continue
        if await _go_on(sessions):
            rests.reset()
        else:
            rest_until = sessions.clock.monotonic() + rests.take()


async def _wait(sessions: Sessions, rest_seconds: float) -> None:
    seconds = min(LOOK_SECONDS, rest_seconds if rest_seconds > 0 else max(due_in(sessions), 0.0))
    try:
        await within(seconds, sessions.clock, sessions.wanted.wait)
    except TimeoutError:
        return
    finally:
        sessions.wanted = anyio.Event()


async def _go_on(sessions: Sessions) -> bool:
    """What is to be done now, if anything; False if it was not done for everybody."""
    if due_in(sessions) <= 0:
        async with sessions.changing:
            return await renew(sessions)
    left_behind = sessions.without(sessions.held)
    if not left_behind:
        return True
    outcome = await sessions.attempt(left_behind, sessions.keys)
    if outcome.made:
        sessions.follow(outcome.made)
    return outcome.error is None


def due_in(sessions: Sessions) -> float:
    """Seconds until the next renewal is due."""
    if not sessions.holders:
        return LOOK_SECONDS
    now_ms = sessions.now_ms()
    for session in sessions.held.values():
        was_set_back = now_ms < session.not_before_ms and not session.is_good(now_ms)
        if was_set_back or not sessions.is_in_force(session):
            return 0.0
    point = EARLIEST + (LATEST - EARLIEST) * sessions.point
    of_the_pair = sessions.born + point * MAX_SESSION_MS / 1000 - sessions.clock.monotonic()  # agents may come and go all the time
    return min(_until(sessions, point, else_seconds=of_the_pair if sessions.held else 0.0), of_the_pair)


def _until(sessions: Sessions, point: float, *, else_seconds: float) -> float:
    """Seconds until the first session that a renewal would lengthen comes to this part of its life, or to its end."""
    now, now_ms = sessions.clock.monotonic(), sessions.now_ms()
    return min(
        (
            session.left(now=now, now_ms=now_ms) - (1 - point) * session.seconds if session.is_good(now_ms) else 0.0
            for session in sessions.held.values()
            if not session.is_its_identitys_last
        ),
        default=else_seconds,
    )


async def renew(sessions: Sessions) -> bool:
    """A new pair for everybody; False if somebody could not be certified. The caller holds `sessions.changing`."""
    pair = HostKeys.make(_strongest(sessions), sessions.random)
    made = await _certify_all(sessions, pair)
    if not made or pair.kem < _strongest(sessions):  # somebody came meanwhile who needs a stronger one
        return not sessions.holders
    sessions.switch(pair, made)
    return not sessions.without(made)


def _strongest(sessions: Sessions) -> int:
    return max((holder.kem for holder in sessions.holders.values()), default=kem.X25519)


async def _certify_all(sessions: Sessions, pair: HostKeys) -> dict[str, Session]:
    """Those who could be certified before it was too late to wait for the others."""
    made: dict[str, Session] = {}
    refused: set[str] = set()
    troubled: set[str] = set()
    pauses = Pauses(sessions.random)
    while waiting := [holder for holder in sessions.without(made) if holder.name not in refused]:
        waiting.sort(key=lambda holder: holder.name in troubled)  # whose key is stuck must not keep the others from theirs
        longest = min(max(_last_call_in(sessions), SHORTEST_SECONDS), LONGEST_SECONDS)
        outcome = await sessions.attempt(waiting, pair, longest_seconds=longest)
        made |= outcome.made
        refused |= outcome.refused.keys()
        troubled |= outcome.troubled
        if outcome.trouble is not None:
            left = _last_call_in(sessions)
            if made and left <= 0:
                break
            pause = pauses.take()
            await _rest(sessions, min(pause, left) if made else pause)
    return made


async def _rest(sessions: Sessions, seconds: float) -> None:
    """Keys whose time is over do not wait for a TPM that is away."""
    while seconds > 0:
        await sessions.clock.sleep(min(seconds, LOOK_SECONDS))
        sessions.drop()
        seconds -= LOOK_SECONDS


def _last_call_in(sessions: Sessions) -> float:
    return _until(sessions, LAST_CALL, else_seconds=0.0)
