"""A web application with the bus inside: it opens and closes with the application, and each request may use it.

Run it with any ASGI server, such as `uvicorn web_app:app`; then `curl -X POST localhost:8000/orders -d '{"item": "tea"}'`.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import bus

handlers = bus.Handlers()
orders: list[dict[str, Any]] = []


@handlers.on("summaries.orders")
async def keep(message: bus.Message) -> None:
    orders.append({"by": message.sender, **message.body})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, Any], None]:
    """`agents=` gives this application's own agents roles of the policy."""
    async with bus.open(agents={"SHOP": "interface", "KITCHEN": "interface"}) as hub:
        async with hub.agent("SHOP") as shop, hub.agent("KITCHEN") as kitchen, kitchen.serving(handlers):
            yield {"shop": shop}


async def order(request: Request) -> Response:
    await request.state.shop.publish("summaries.orders", await request.json())
    return Response(status_code=202)


async def listed(request: Request) -> JSONResponse:
    return JSONResponse(orders)


app = Starlette(lifespan=lifespan, routes=[Route("/orders", order, methods=["POST"]), Route("/orders", listed)])
