from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from transport.ari_rest import (
    AriError,
    AriNotFound,
    AriRest,
    AriUnauthorized,
    AriUnavailable,
    basic_authorization,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def rest_towards(handler: Handler, timeout_s: float = 5.0) -> AsyncIterator[AriRest]:
    """A client of a server that answers everything with ``handler``."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    rest = AriRest("127.0.0.1", runner.addresses[0][1], "Basic xyz", timeout_s=timeout_s)
    try:
        yield rest
    finally:
        await rest.close()
        await runner.cleanup()


def answer_with(status: int, text: str, **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers=headers)

    return answer


def test_authorization_is_basic_and_utf8() -> None:
    # RFC 7617, section 2.1.
    assert basic_authorization("test", "123£") == "Basic dGVzdDoxMjPCow=="


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, '{"message":"Channel not found"}', AriNotFound, "404 Channel not found"),
        (401, '{"error":"Unauthorized"}', AriUnauthorized, "401 Unauthorized"),
        (403, "", AriUnauthorized, "403 Forbidden"),
        (409, '{"message":"Channel not in Stasis"}', AriError, "409 Channel not in Stasis"),
        (500, '{"error":"Allocation failed"}', AriError, "500 Allocation failed"),
        (502, "<html>", AriError, "502 Bad Gateway"),
        (405, "[]", AriError, "405 Method Not Allowed"),
    ],
)
async def test_refusals_have_status_and_reason(status: int, body: str, kind: type[AriError], text: str) -> None:
    async with rest_towards(answer_with(status, body)) as rest:
        with pytest.raises(AriError) as caught:
            await rest.request("GET", "/ari/channels")
    assert type(caught.value) is kind
    assert (caught.value.status, str(caught.value)) == (status, text)


async def test_a_redirect_is_not_followed_with_our_credentials() -> None:
    async with rest_towards(answer_with(302, "", Location="http://127.0.0.1:1/")) as rest:
        with pytest.raises(AriError, match="302"):
            await rest.request("GET", "/ari/channels")


async def test_only_the_path_of_a_url_counts_and_keeps_its_quoting() -> None:
    seen: list[tuple[str, str | None]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.raw_path, request.headers.get("Authorization")))
        return web.Response(text="{}")

    async with rest_towards(answer) as rest:
        await rest.request("GET", "https://elsewhere:8089/ari/channels/a+b%2Fc%25", params={"x": "1 2&3"})
    assert seen == [("/ari/channels/a%20b%2Fc%25?x=1+2%263", "Basic xyz")]


async def test_an_answer_that_takes_too_long_is_unavailability() -> None:
    released = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    async with rest_towards(wait, timeout_s=0.05) as rest:
        with pytest.raises(AriUnavailable, match=r"no answer from Asterisk within 0\.05 s") as caught:
            await rest.request("GET", "/ari/channels")
        assert caught.value.status is None
        released.set()


async def test_nobody_there_is_unavailability() -> None:
    async with rest_towards(answer_with(200, "")) as rest:
        pass
    gone = AriRest("127.0.0.1", rest._base.port or 0, "Basic xyz")
    with pytest.raises(AriUnavailable, match="not reachable"):
        await gone.request("GET", "/ari/channels")
    await gone.close()


@pytest.mark.parametrize("description", ["{", "[]", "{}", '{"apis":[{}]}', '{"apis":null,"basePath":""}'])
async def test_an_odd_api_description_is_unavailability(description: str) -> None:
    async with rest_towards(answer_with(200, description)) as rest:
        with pytest.raises(AriUnavailable, match="description of its operations"):
            await rest.load()


async def test_operations_need_a_description_and_an_open_client() -> None:
    async with rest_towards(answer_with(200, "")) as rest:
        with pytest.raises(AriUnavailable, match="not connected to Asterisk yet"):
            await rest.call("channels", "answer", channelId="x")
        assert not rest.knows("channels", "answer")
    with pytest.raises(AriUnavailable, match="closed"):
        await rest.request("GET", "/ari/channels")
