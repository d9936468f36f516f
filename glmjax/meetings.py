"""How the processes of a run find each other: all others connect to process 0, at whichever address reaches it."""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, TextIO

_CONNECTING = 60  # seconds until all processes must have found each other
_ANSWERING = 10  # seconds for one try


class Process(NamedTuple):
    """One process of a run."""

    number: int
    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.number} (pid {self.pid} on {self.host})"


class Meeting(NamedTuple):
    """Where process 0 is to be found, and the word by which the processes of a run know each other."""

    process: Process
    word: str
    port: int
    hosts: tuple[str, ...]

    def text(self) -> str:
        """All of it, on a line."""
        return " ".join([str(self.process.pid), self.process.host, self.word, str(self.port), *self.hosts])

    @staticmethod
    def read(text: str) -> "Meeting":
        """From the line."""
        pid, host, word, port, *hosts = text.split()
        return Meeting(Process(0, int(pid), host), word, int(port), tuple(hosts))


Connections = dict[
    Process, tuple[socket.socket, TextIO]
]  # to each of some processes, and the lines that come from there


def open_meeting(host: str | None) -> tuple[socket.socket, Meeting]:
    """What process 0 does first: a socket that listens, at the address by which the others know it if that is known."""
    server, name = None, socket.gethostname()
    if host is not None:
        with suppress(OSError):  # it is another's address, or one that is translated on the way
            family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
            server = socket.create_server(address, family=family, backlog=socket.SOMAXCONN)
    if server is None:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        server = socket.create_server(("", 0), family=family, backlog=socket.SOMAXCONN, dualstack_ipv6=both)
    hosts = dict.fromkeys([*([] if host is None else [host]), *_addresses(name), name])
    meeting = Meeting(Process(0, os.getpid(), name), secrets.token_hex(8), server.getsockname()[1], tuple(hosts)[:8])
    return server, meeting


def _addresses(name: str) -> Iterator[str]:
    """The addresses of this machine, as other machines may know them."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent; it is the address that the way out has
        yield probe.getsockname()[0]
    with suppress(OSError):
        yield from (found[4][0] for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))  # type: ignore[misc]


def wait_for_all(server: socket.socket, meeting: Meeting, n_processes: int) -> Connections:
    """In process 0: the connections to all others, who come to it."""
    found, until = Connections(), time.monotonic() + _CONNECTING
    with server:
        while len(found) < n_processes - 1:
            server.settimeout(max(until - time.monotonic(), 0.01))
            try:
                connection = server.accept()[0]
            except TimeoutError:
                missing = sorted(set(range(1, n_processes)) - {process.number for process in found})
                raise TimeoutError(_unreached(f"processes {missing} did not reach", meeting)) from None
            try:
                connection.settimeout(_ANSWERING)
                reader = connection.makefile("r", encoding="utf-8")
                word, index, pid, host = reader.readline(1000).split()
                if word != meeting.word:
                    raise ValueError
                connection.sendall(f"{meeting.word}\n".encode())
            except (OSError, ValueError):  # a stranger
                connection.close()
                continue
            process = Process(int(index), int(pid), host)
            found[process] = connection, reader
    return found


def come_to(meeting: Meeting, index: int) -> tuple[Process, Connections]:
    """In any other process: itself, and the connection to process 0."""
    own, until = Process(index, os.getpid(), socket.gethostname()), time.monotonic() + _CONNECTING
    while time.monotonic() < until:
        for host in meeting.hosts:
            try:
                connection = socket.create_connection((host, meeting.port), timeout=_ANSWERING)
            except OSError:
                continue
            reader = connection.makefile("r", encoding="utf-8")
            with suppress(OSError, ValueError):
                connection.sendall(f"{meeting.word} {index} {own.pid} {own.host}\n".encode())
                if reader.readline(1000).strip() == meeting.word:
                    return own, {meeting.process: (connection, reader)}
            connection.close()  # another service has that port there
        time.sleep(0.1)
    raise TimeoutError(_unreached(f"process {index} did not reach", meeting))


def _unreached(who: str, meeting: Meeting) -> str:
    return (
        f"{who} {meeting.process} within {_CONNECTING} s, at {', '.join(meeting.hosts)}, port {meeting.port}; the "
        "processes must reach each other on all ports: look at firewalls, and at how the hosts are called"
    )
