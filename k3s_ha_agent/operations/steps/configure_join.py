"""Our drop-in with ``server:`` and the token in a file of ours, 0600; undo takes both away."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.configuration import server_drop_in
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.steps.enable_etcd import remove_drop_in
from k3s_ha_agent.operations.threads import in_thread


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigureJoin:
    drop_in: Path
    url: str
    given_token: Path
    """Where the request's token was put, 0600."""
    token_file: Path
    """Where k3s reads it from, at every start."""

    name: str = "configure-join"
    resumable: bool = True
    on_disk: str = "k3s has not been started; our drop-in and the token file are there or not."
    by_hand: str = "Remove our drop-in and the token file, remove the gate."

    async def do(self, run: Run) -> None:
        made = not await in_thread(self.drop_in.parent.is_dir)
        if not run.has_fact("drop_in_directory_made"):
            await run.remember(drop_in_directory_made=made)
        await in_thread(self._write)

    def _write(self) -> None:
        durable.make_directory(self.token_file.parent, 0o755)
        durable.write(self.token_file, self.given_token.read_bytes().strip() + b"\n")
        durable.make_directory(self.drop_in.parent, 0o755)
        durable.write(self.drop_in, server_drop_in(self.url, self.token_file))

    async def verify(self, run: Run) -> None:
        if await in_thread(self.drop_in.read_bytes) != server_drop_in(self.url, self.token_file):
            raise StepFailed(f"{self.drop_in} is not what was written to it.")

    async def undo(self, run: Run) -> None:
        made = run.has_fact("drop_in_directory_made") and bool(run.fact("drop_in_directory_made"))
        await in_thread(remove_drop_in, self.drop_in, made)
        await in_thread(durable.remove, self.token_file)


@dataclasses.dataclass(frozen=True, slots=True)
class ForgetToken:
    """After the commitment: the copy of the request's token beside the record is not needed any more."""

    given_token: Path

    name: str = "forget-token"
    resumable: bool = True
    on_disk: str = "Committed; the copy of the token beside the record is there, 0600, or not."
    by_hand: str = "Nothing."

    async def do(self, run: Run) -> None:
        await in_thread(durable.remove, self.given_token)

    async def verify(self, run: Run) -> None:
        """Nothing: removing raises when it fails."""

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""


@dataclasses.dataclass(frozen=True, slots=True)
class KeepToken:
    """The request's token lies beside the record, 0600, as long as the way back may need it."""

    given_token: Path

    name: str = "keep-token"
    resumable: bool = True
    on_disk: str = "Nothing has changed; the copy of the token is beside the record."
    by_hand: str = "Nothing."

    async def do(self, run: Run) -> None:
        """The manager put it there before the record was made."""

    async def verify(self, run: Run) -> None:
        if not await in_thread(self.given_token.exists):
            raise StepFailed(f"{self.given_token} is missing.")

    async def undo(self, run: Run) -> None:
        await in_thread(durable.remove, self.given_token)
