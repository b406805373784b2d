"""RawRpc: a connection to a control plane that sends whatever bytes a test gives it."""

from __future__ import annotations

import contextlib
import json
import socket

WAIT_S = 20


class RawRpc:
    """One connection to the unix socket at `path`; answers are read line by line."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT_S)
        try:
            self.socket.connect(str(path))
        except BaseException:
            self.socket.close()
            raise
        self._received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Hang up. Idempotent."""
        self.socket.close()

    def send(self, *calls):
        """Send calls (dicts), or bytes as they are."""
        stream = [call if isinstance(call, bytes) else json.dumps(call).encode() for call in calls]
        self.socket.sendall(b"".join(stream))

    def send_what_goes(self, data):
        """Send as much as is taken before it hangs up; return how many bytes that was."""
        sent, data = 0, memoryview(data)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < len(data):
                sent += self.socket.send(data[sent : sent + (1 << 16)])
        return sent

    def line(self):
        """Return the next answer; None at the end."""
        text = self.text()
        return None if text is None else json.loads(text)

    def text(self):
        """Return the next answer as it came, without its newline; None at the end."""
        while b"\n" not in self._received:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:  # it had not read all that was sent
                data = b""
            if not data:
                assert not self._received
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def answers(self, count):
        """Return the next answers by id."""
        found = [self.line() for _ in range(count)]
        return {answer["id"]: answer for answer in found}

    def rest(self):
        """Return all answers up to the end, which has to come."""
        return list(iter(self.line, None))

    def call(self, method, **params):
        """Call and return the whole answer, a result or an error."""
        self.send({"id": 0, "method": method, "params": params or None})
        return self.line()

    def is_quiet(self, seconds=0.1):
        """Whether nothing comes for so long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(WAIT_S)
        return False
