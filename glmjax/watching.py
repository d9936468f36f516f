"""A watch over the processes of a run: when one of them dies the others say which, and end; none waits for ever.

Every process holds a connection to process 0. The kernel closes it when a process dies, however that comes about, and
so it is known at once; a process that ends of itself says goodbye before. Lines of text are all that goes over it.
"""

import atexit
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn, TextIO

_CONNECTING = 60  # seconds until all processes must have found each other
_ANSWERING = 10  # seconds for one try
_PATIENCE = 60  # seconds after which a process that waits for others says so
_CAUSE = 1  # second for the death of another process to be heard of, where that is the cause of an error here
_PARTING = 5  # seconds for JAX to let go of all processes, once the first has ended by it

_checkpoint: str | None = None  # the last that was written, here or in process 0
_watch: "_Watch | None" = None  # one a process, as JAX's own runtime is


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


class _Watch:
    """The connections of a process: of process 0 to all others, of each of those to process 0."""

    def __init__(self, own: Process, peers: dict[Process, socket.socket]) -> None:
        self.own = own
        self.peers = peers
        self.is_first = own.number == 0
        self.over = False
        self.failed = False
        self.status: Any = None  # as it was given to `sys.exit`
        self.working = set(peers)  # those that have not said goodbye
        self.alone = threading.Event()  # once there are none
        self.gone = threading.Event()  # once JAX has let go of the others, so that none is missed any more
        self.lock = threading.Lock()

    def tell(self, line: str) -> None:
        with self.lock:
            for connection in self.peers.values():
                with suppress(OSError):  # who has died is told nothing
                    connection.sendall(f"{line}\n".encode())

    def part(self, process: Process) -> None:
        with self.lock:
            self.working.discard(process)
            if not self.working:
                self.alone.set()


def note_checkpoint(path: str | os.PathLike) -> None:
    """Say that a checkpoint has been written, for the sentence that a process ends with when another one dies."""
    global _checkpoint
    _checkpoint = os.path.abspath(path)
    if _watch is not None and _watch.is_first:
        _watch.tell(f"checkpoint {_checkpoint}")


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


def lead(server: socket.socket, meeting: Meeting, n_processes: int, heartbeat: float) -> None:
    """The watch in process 0: all others come to it, and it tells each what becomes of another."""
    peers, lines, until = dict[Process, socket.socket](), dict[Process, TextIO](), time.monotonic() + _CONNECTING
    with server:
        while len(peers) < n_processes - 1:
            server.settimeout(max(until - time.monotonic(), 0.01))
            try:
                connection = server.accept()[0]
            except TimeoutError:
                missing = sorted(set(range(1, n_processes)) - {process.number for process in peers})
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
            peers[process], lines[process] = connection, reader
    _begin(_Watch(meeting.process, peers), lines, heartbeat)


def follow(meeting: Meeting, index: int, heartbeat: float) -> None:
    """The watch in any other process."""
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
                    return _begin(_Watch(own, {meeting.process: connection}), {meeting.process: reader}, heartbeat)
            connection.close()  # another service has that port there
        time.sleep(0.1)
    raise TimeoutError(_unreached(f"process {index} did not reach", meeting))


def _unreached(who: str, meeting: Meeting) -> str:
    return (
        f"{who} {meeting.process} within {_CONNECTING} s, at {', '.join(meeting.hosts)}, port {meeting.port}; the "
        "processes must reach each other on all ports: look at firewalls, and at how the hosts are called"
    )


def _begin(watch: _Watch, lines: dict[Process, TextIO], heartbeat: float) -> None:
    global _watch
    _watch = watch
    for process, connection in watch.peers.items():
        connection.settimeout(None)
        _keep_alive(connection, heartbeat)
        threading.Thread(target=_listen, args=(watch, process, lines[process]), daemon=True, name="watch").start()
    before = sys.excepthook

    def hook(kind: Any, error: Any, trace: Any) -> None:
        prompt = hasattr(sys, "ps1")  # where nothing ends by an error
        if not prompt:
            time.sleep(_CAUSE)
        before(kind, error, trace)
        if not prompt:
            _fail(watch, f"{type(error).__name__}: {error}")

    leave = sys.exit

    def noted(status: Any = None) -> NoReturn:  # of which nothing else can be known when the process ends
        if threading.current_thread() is threading.main_thread():
            watch.status = status
        leave(status)

    sys.excepthook, sys.exit = hook, noted
    atexit.register(_leave, watch)
    os.register_at_fork(after_in_child=lambda: _forget(watch))


def _keep_alive(connection: socket.socket, heartbeat: float) -> None:
    """Have the kernel ask whether the other machine is there; it says that it is not after half of `heartbeat`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    each = max(1, int(heartbeat / 8))
    for name, value in {"TCP_KEEPIDLE": 2 * each, "TCP_KEEPINTVL": each, "TCP_KEEPCNT": 2}.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _listen(watch: _Watch, process: Process, lines: TextIO) -> None:
    """Hear what one process says, and whether it ends without a word."""
    global _checkpoint
    with suppress(OSError, ValueError):
        for line in lines:
            what, _, rest = line.strip().partition(" ")
            if what == "goodbye":
                watch.part(process)
            if what == "checkpoint":
                _checkpoint = rest
            if what == "error":
                return _end(watch, f"{process} ended by {rest}")
            if what == "over":
                return _end(watch, rest)
    # JAX lets all processes go at once: who has said goodbye may have ended by it, or have died before.
    if process in watch.working or not watch.gone.wait(_PARTING):
        _end(watch, f"{process} died")


def _end(watch: _Watch, what: str) -> None:
    """Say what has happened, here and, in process 0, to all others, and end this process: its exit status is 1.

    Its main thread is in the middle of a sum over the processes that will never be complete, where no exception
    reaches it.
    """
    with watch.lock:
        if watch.over:
            return
        watch.over = True
    how = f"they go on from the last checkpoint, {_checkpoint}" if _checkpoint else "there is no checkpoint of this run"
    sentence = f"glmjax: {what}; the others cannot go on without it. Mend that, and start all processes again: {how}\n"
    with suppress(OSError):
        os.write(2, sentence.encode())  # at once: where process 0 is gone JAX is about to abort this one
    if watch.is_first:
        watch.tell(f"over {what}")
    with suppress(RuntimeError):  # so late that no thread can be started
        flush = threading.Thread(target=_flush, daemon=True)  # the main thread may hold what it needs
        flush.start()
        flush.join(1)
    if watch.is_first:
        time.sleep(0.2)  # so that what the others were told is there before this end is
    os._exit(1)


def _fail(watch: _Watch, what: str) -> None:
    """Tell the others of what ends this process."""
    watch.failed = True
    what = " ".join(what.split())[:1000]
    with watch.lock:
        watch.over = True
    watch.tell(f"over {watch.own} ended by {what}" if watch.is_first else f"error {what}")
    late = threading.Timer(_ANSWERING, os._exit, (1,))  # where something of this process does not come to its end
    late.daemon = True
    late.start()


def _leave(watch: _Watch) -> None:
    """The last thing that a process does. JAX waits for the others, 5 minutes, and aborts all that still work.

    So here it waits for them first, as long as they take; process 0 says goodbye when all others have.
    """
    if not watch.failed and watch.status not in (None, 0):
        _fail(watch, f"sys.exit({watch.status!r})")
    _flush()
    if watch.failed:
        os._exit((watch.status & 255 if isinstance(watch.status, int) else 0) or 1)  # JAX would wait for the others
    if not watch.is_first:
        watch.tell("goodbye")
    if not watch.alone.wait(_PATIENCE):
        with watch.lock:
            names = ", ".join(map(str, sorted(watch.working)))
        print(f"glmjax: {watch.own} has done its work, and waits for {names}", file=sys.stderr, flush=True)
        watch.alone.wait()
    if watch.is_first:
        watch.tell("goodbye")
    import jax

    jax.distributed.shutdown()
    watch.gone.set()


def _forget(watch: _Watch) -> None:
    """In a copy of the process: the connections are not the copy's, which would keep them open."""
    atexit.unregister(_leave)
    sys.excepthook = sys.__excepthook__
    for connection in watch.peers.values():
        with suppress(OSError):
            os.close(connection.detach())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
