"""Between verified and handed over: an agent's deliver hooks, then `decode` of the subscription.

What goes no further is told, and if it is durable, settled:

    dropped        a hook raised Drop: it is ended, with the hook's reason, and stands with the dead letters
    hook_failed    a hook raised something else: it is given back, and comes again
    undecodable    the body is not what its reader wants, and never will be: it is ended
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from bus.agent.decoding import Decode
from bus.agent.hooks import Chain, Each, HookContext
from bus.agent.message import DecodedMessage, Message
from bus.agent.subscription import Subscription
from bus.errors import Drop

DROPPED: Final = "dropped"
HOOK_FAILED: Final = "hook_failed"
UNDECODABLE: Final = "undecodable"
Told = Callable[[Message, str, Exception], None]
"""Hears of a message, why it was not handed over, and the error."""


class Delivering:
    """Of one subscription, or of replies."""

    def __init__(self, context: HookContext, *, decode: Decode | None, told: Told) -> None:
        self.context, self._decode, self._told = context, decode, told
        self._chain: Chain[Message] | None = None
        self.each: Each[Message] = _as_it_is
        """All hooks, or the only one as it is: asked without a detour, because it is asked for each message."""
        self.decodes = decode is not None

    def install(self, one: Subscription[Any], chain: Chain[Message] | None) -> None:
        """These are the hooks from now on."""
        self._chain = chain
        is_batch = chain is not None and chain.is_batch
        self.each = _as_it_is if chain is None or is_batch else chain.sole or chain.one
        one.batch_hooks = self._all if is_batch else None
        one.hooks = self if self.decodes or self.each is not _as_it_is else None

    def follow(self, chain: Chain[Message] | None) -> None:
        """The same, where nobody iterates."""
        self._chain = chain

    @property
    def is_plain(self) -> bool:
        """Whether no hook looks at what comes."""
        return self._chain is None

    async def failed(self, message: Message, error: Exception) -> None:
        """What `each` raised of it: it goes no further."""
        await self._lost([message], error)

    async def further(self, message: Message, found: Any) -> Message | None:
        """What `each` made of it, if that is another one or bodies are decoded; None if it goes no further."""
        if found is not message and self._chain is not None:
            try:
                message = self._chain.checked(found, self.each)
            except TypeError as error:
                await self._lost([message], error)
                return None
        return message if self._decode is None else await self._decoded(message, self._decode)

    async def reply(self, message: Message) -> Message | None:
        """The same for an answer: it comes alone, and is not decoded."""
        if self._chain is None:
            return message
        try:
            return await self._chain.one(self.context, message)
        except Exception as error:  # noqa: BLE001  a hook is somebody else's
            await self._lost([message], error)
            return None

    async def _all(self, messages: list[Message]) -> list[Message]:
        return messages if self._chain is None else await self._chain.many(self.context, messages, self._lost)

    async def _decoded(self, message: Message, decode: Decode) -> Message | None:
        try:
            return DecodedMessage(message, decode(message))
        except Exception as error:  # noqa: BLE001  a decoder raises what it likes
            self._told(message, UNDECODABLE, error)
            await message.term(UNDECODABLE)
            return None

    async def _lost(self, messages: Sequence[Message], error: Exception) -> None:
        for message in messages:
            if isinstance(error, Drop):
                self._told(message, DROPPED, error)
                await message.term(error.reason or DROPPED)
            else:
                self._told(message, HOOK_FAILED, error)
                await message.nak()


async def _as_it_is(_: HookContext, message: Message) -> Message:
    return message
