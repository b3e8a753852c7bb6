"""ARI requests: aioari knows the operations, this module how they travel.

aioari itself would put the credentials into every URL, turn refusals into server-side exceptions and wait
five minutes for an answer; the HTTP client given to it here does none of that.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aioari
import aiohttp
import orjson
from aioswagger11 import SwaggerError
from yarl import URL

REQUEST_TIMEOUT_S = 5.0
"""Longer than the 2 s that Asterisk waits for a media server that does not answer."""
MAX_CONNECTIONS = 20
# Asterisk closes an idle connection after 15 s; a request that meets the closing fails.
_KEEPALIVE_S = 10.0

# It tells, at info level, of every response that it makes no object of.
logging.getLogger("aioari.model").setLevel(logging.WARNING)


class AriError(Exception):
    """Asterisk refused a request, or did not answer; ``reason`` is in Asterisk's words where it gave any."""

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(reason if status is None else f"{status} {reason}")
        self.status = status
        self.reason = reason


class AriNotFound(AriError):  # noqa: N818 - reads as what it is
    """The channel, bridge … does not exist (any more)."""


class AriUnauthorized(AriError):  # noqa: N818
    """The credentials are wrong, or may not do this."""


class AriUnavailable(AriError):  # noqa: N818
    """No answer: Asterisk is not there, or too slow. ``status`` is None."""

    def __init__(self, reason: str) -> None:
        super().__init__(None, reason)


_ERRORS = {401: AriUnauthorized, 403: AriUnauthorized, 404: AriNotFound}


def basic_authorization(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass(slots=True, frozen=True)
class _Response:
    """The part of an HTTP response that aioari looks at."""

    status: int
    body: str

    async def text(self) -> str:
        return self.body


class AriRest:
    """One connection pool to one Asterisk. Operations need ``load`` first and ``close`` at last."""

    def __init__(
        self,
        host: str,
        port: int,
        authorization: str,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._base = URL.build(scheme="http", host=host, port=port)
        self._authorization = authorization
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._asterisk: Any = None
        """The ``aioari.Client``, once it knows Asterisk's operations."""
        self._operations: dict[tuple[str, str], Callable[..., Awaitable[Any]]] = {}

    async def load(self) -> None:
        """Asks Asterisk which operations it has; a dozen requests, made once. Raises ``AriError``."""
        if self._asterisk is not None:
            return
        asterisk = aioari.Client(f"{self._base}/", self)
        try:
            await asterisk.init()
        # aioswagger11 checks little before it digs in.
        except (SwaggerError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise AriUnavailable(f"Asterisk's description of its operations is odd: {error!r}") from error
        self._asterisk = asterisk

    def knows(self, resource: str, operation: str) -> bool:
        if self._asterisk is None:
            return False
        declared = self._asterisk.swagger.get_resource(resource)
        return declared is not None and declared.get_operation(operation) is not None

    async def call(self, resource: str, operation: str, /, **parameters: object) -> Any:
        """Runs an operation by its name in Asterisk's API description and returns the decoded JSON answer.

        Parameters that are None are left out. Raises ``AriError``.
        """
        if self._asterisk is None:
            raise AriUnavailable("not connected to Asterisk yet")
        # aioari makes a new class for each look-up of an operation: look up once.
        run = self._operations.get((resource, operation))
        if run is None:
            run = getattr(self._asterisk.get_repo(resource), operation)
            self._operations[resource, operation] = run
        given = {name: value for name, value in parameters.items() if value is not None}
        return _plain(await run(**given))

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        url: str,
        params: Mapping[str, str | int] | None = None,
        data: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Response:
        """Sends one request to this Asterisk; of ``url`` only the path counts. Raises ``AriError``.

        Has the signature that aioari expects of its HTTP client.
        """
        # Asterisk builds the URLs of its API description from the Host header and "http".
        # aioswagger11 quotes a path as if it were a query.
        path = urlsplit(url).path.replace("+", "%20")
        target = self._base.join(URL(path, encoded=True))
        try:
            async with self._open_session().request(
                method, target, params=params, data=data, headers=headers, allow_redirects=False
            ) as response:
                body = await response.text()
        except TimeoutError as error:
            raise AriUnavailable(f"no answer from Asterisk within {self._timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise AriUnavailable(f"Asterisk is not reachable: {error}") from error
        if response.status >= 300:
            reason = _reason(body) or response.reason or "no reason given"
            raise _ERRORS.get(response.status, AriError)(response.status, reason)
        return _Response(response.status, body)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise AriUnavailable("the ARI client is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S),
                headers={"Authorization": self._authorization},
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            )
        return self._session


def _plain(answer: Any) -> Any:
    """aioari's objects as the JSON they were made of."""
    if isinstance(answer, list):
        return [_plain(item) for item in answer]
    return getattr(answer, "json", answer)


def _reason(body: str) -> str | None:
    """Asterisk's own words for a refusal, in a field that is not always called the same."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict):
        return None
    reason = answer.get("message") or answer.get("error")
    return str(reason) if reason else None
