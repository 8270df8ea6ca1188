"""HTTP to the agent with the standard library: a command must start fast."""

from __future__ import annotations

import dataclasses
import http.client
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from k3s_ha_agent.ctl.endpoint import Endpoint, describe
from k3s_ha_agent.errors import AgentError, AgentUnreachable

CALL_TIMEOUT = 60.0
"""Seconds an answer may take."""
CHECKS_TIMEOUT = 900.0
"""Seconds an answer may take that needs the checks made: they copy the datastore and measure the disk."""
STREAM_TIMEOUT = 60.0
"""Seconds of silence on an event stream; the agent breaks it every 15 seconds."""


class Problem(Exception):
    """The agent answered with a problem document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(document.get("detail", ""))
        self.document = document

    @property
    def exit_code(self) -> int:
        """By the class of errors.py that has the code; a code of a newer agent counts as failed."""
        return exit_codes().get(str(self.document.get("code")), 1)


class AnswerLost(AgentUnreachable):
    """The question was sent and the agent went away before it answered: it may have been heard."""


def exit_codes() -> dict[str, int]:
    """Every problem code with the exit code of its class."""
    found: dict[str, int] = {}
    waiting: list[type[AgentError]] = [AgentError]
    while waiting:
        known = waiting.pop()
        found[known.code] = known.exit_code
        waiting += known.__subclasses__()
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event of the stream. ``id`` None: not one to come back with."""

    id: str | None
    type: str
    data: Mapping[str, Any]


class Client:
    """Asks the agent. ``say`` gets each call as a curl command before it is made."""

    def __init__(self, endpoint: Endpoint, say: Callable[[str], None] | None = None) -> None:
        self._endpoint = endpoint
        self._say = say
        self._said: set[str] = set()

    def get(self, target: str, *, timeout: float = CALL_TIMEOUT) -> Any:
        """The JSON answer. Raises Problem, Forbidden or AgentUnreachable."""
        return self._ask("GET", target, {}, None, timeout)

    def text(self, target: str, *, timeout: float = CALL_TIMEOUT) -> str:
        """The answer as it is. Raises as ``get``."""
        connection, response = self._send("GET", target, {}, None, timeout)
        try:
            return response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise AnswerLost(f"The agent's answer cannot be read: {describe(error)}.") from error
        finally:
            connection.close()

    def post(
        self, target: str, body: Mapping[str, Any], headers: Mapping[str, str], *, timeout: float = CALL_TIMEOUT
    ) -> Any:
        """As ``get``; AnswerLost when the agent may have begun what it was asked."""
        headers = {"Content-Type": "application/json", **headers}
        return self._ask("POST", target, headers, json.dumps(body), timeout)

    def delete(self, target: str, *, timeout: float = CALL_TIMEOUT) -> Any:
        """As ``post``."""
        return self._ask("DELETE", target, {}, None, timeout)

    def events(self, target: str, last_id: str | None) -> Iterator[ServerEvent]:
        """Events as they come; ends when the stream ends. Raises as ``get``."""
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        connection, response = self._send("GET", target, headers, None, STREAM_TIMEOUT)
        try:
            yield from parse_events(line.decode() for line in response)
        except (OSError, http.client.HTTPException) as error:
            raise AnswerLost(f"The agent's events broke off: {describe(error)}.") from error
        finally:
            connection.close()

    def _ask(self, method: str, target: str, headers: Mapping[str, str], body: str | None, timeout: float) -> Any:
        connection, response = self._send(method, target, headers, body, timeout)
        try:
            return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AnswerLost(f"The agent's answer cannot be read: {describe(error)}.") from error
        finally:
            connection.close()

    def _send(
        self, method: str, target: str, headers: Mapping[str, str], body: str | None, timeout: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A response whose body is still to be read. Problem when its status is an error."""
        self._show(curl(self._endpoint, method, target, headers, body))
        connection = self._endpoint.connect(timeout)
        try:
            try:
                connection.request(method, target, body, dict(headers))
                response = connection.getresponse()
                if response.status < 400:
                    return connection, response
                document = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._endpoint.refusal(error) or AnswerLost(
                    f"The agent went away before it answered: {describe(error)}.", next_step=self._endpoint.look
                ) from error
            raise Problem(document)
        except BaseException:
            connection.close()
            raise

    def _show(self, command: str) -> None:
        # A poll is said once, not each time.
        if self._say is not None and command not in self._said:
            self._said.add(command)
            self._say(command)


def curl(endpoint: Endpoint, method: str, target: str, headers: Mapping[str, str], body: str | None) -> str:
    """The same call as a shell command."""
    words = ["curl", *endpoint.curl()]
    if target.endswith("/events"):
        words.append("--no-buffer")
    if method != "GET":
        words += ["-X", method]
    for name, value in headers.items():
        words += ["-H", f"{name}: {value}"]
    if body is not None:
        words += ["-d", _without_token(body)]
    return shlex.join([*words, f"{endpoint.base}{target}"])


def _without_token(body: str) -> str:
    """A body as it may be shown: what is pasted needs the token put in by hand, and nobody reads it off a screen."""
    said = json.loads(body)
    return json.dumps({**said, "token": "PUT-THE-TOKEN-HERE"}) if "token" in said else body


def parse_events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Events out of the lines of a stream; what a stream that broke off left unfinished is dropped."""
    fields: dict[str, str] = {}
    for line in lines:
        text = line.rstrip("\r\n")
        if text and not text.startswith(":"):
            name, _, value = text.partition(":")
            fields[name] = value.removeprefix(" ")
        elif not text:
            if "data" in fields:
                yield ServerEvent(fields.get("id"), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}
