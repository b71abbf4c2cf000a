"""What the first host's run and those of the other hosts say to each other without ssh: JSON, a line a message, validated.

Nothing that is received is ever executed: a follower is told which launch it is, and builds its own command for it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bench.launch.ended import Ended
from bench.launch.presence import Presence
from bench.results.launch_file import Launch

TICK_S = 2.0
"""How often each side says that it is still there."""
SILENCE_S = 20.0
"""After which the other side counts as gone: a cut cable tells nobody."""
MAX_BYTES = 256 * 2**20
"""Of one message. A host's files are the largest."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Greeting(_Message):
    """A follower's first words: which host it is, what it has installed, and which hosts it was told of."""

    kind: Literal["greeting"] = "greeting"
    node_rank: Annotated[int, Field(ge=1)]
    hosts: dict[str, list[int]]
    suite: str
    presence: Presence


class Refusal(_Message):
    """The head can't use this follower."""

    kind: Literal["refusal"] = "refusal"
    reason: str


class Start(_Message):
    """Start your part of this launch, whose ranks meet at this address."""

    kind: Literal["start"] = "start"
    launch: Launch
    master: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]


class Status(_Message):
    """The follower's part of the launch ended by itself."""

    kind: Literal["status"] = "status"
    launch_id: str
    status: int


class End(_Message):
    """End your part, and hand over what it left."""

    kind: Literal["end"] = "end"
    launch_id: str


class Left(_Message):
    kind: Literal["left"] = "left"
    launch_id: str
    ended: Ended


class Forget(_Message):
    """What you handed over is kept: remove yours."""

    kind: Literal["forget"] = "forget"
    launch_id: str


class Tick(_Message):
    kind: Literal["tick"] = "tick"


class Bye(_Message):
    """The head is through; `reason` where it was stopped."""

    kind: Literal["bye"] = "bye"
    reason: str | None = None


Message = Greeting | Refusal | Start | Status | End | Left | Forget | Tick | Bye
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


class Gone(Exception):
    """The other side is not there any more, or said what is no message; says which."""


class Channel:
    """One connection. Sending is safe from several threads; receiving is for one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.setblocking(True)
        self._socket.settimeout(SILENCE_S)
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._searched = 0
        self._heard_s = time.monotonic()

    def send(self, message: Message) -> None:
        """Raises Gone."""
        try:
            with self._lock:
                self._socket.sendall(message.model_dump_json().encode("utf-8") + b"\n")
        except OSError as error:
            raise Gone(f"the connection was cut ({error.strerror or error})") from error

    def receive(self, wait_s: float) -> Message | None:
        """The next message; None if there is none yet. Raises Gone, also where nothing was heard for SILENCE_S."""
        deadline = time.monotonic() + wait_s
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            left_s = deadline - time.monotonic()
            readable, _, _ = select.select([self._socket], [], [], max(0.0, left_s))
            if not readable:
                if time.monotonic() - self._heard_s > SILENCE_S:
                    raise Gone(f"nothing was heard for {SILENCE_S:g} s")
                return None
            try:
                received = self._socket.recv(2**20)
            except OSError as error:
                raise Gone(f"the connection was cut ({error.strerror or error})") from error
            if not received:
                raise Gone("the connection was closed")
            self._heard_s = time.monotonic()
            self._buffer += received
            if len(self._buffer) > MAX_BYTES:
                raise Gone(f"more than {MAX_BYTES} bytes in one message")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        try:
            return _ADAPTER.validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise Gone(
                f"what was received is no message ({'.'.join(map(str, first['loc']))}: {first['msg']})"
            ) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
