"""A watch over the processes of a run: when one of them dies the others say which, and end; none waits for ever.

Every process holds a connection to process 0. The kernel closes it when a process dies, however that comes about, and
so it is known at once; a process that ends of itself says goodbye before. Lines of text are all that goes over it.
"""

import atexit
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn, TextIO

import jax

from .meetings import Connections, Meeting, Process, come_to, wait_for_all

_ENDING = 10  # seconds that a process which has failed may take to end
_PATIENCE = 60  # seconds after which a process that waits for others says so
_CAUSE = 1  # second for the death of another process to be heard of, where that is the cause of an error here
_PARTING = 5  # seconds for JAX to let go of all processes, once the first has ended by it

_checkpoint: str | None = None  # the last that was written, here or in process 0
_watch: "_Watch | None" = None  # one a process, as JAX's own runtime is


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


def lead(server: socket.socket, meeting: Meeting, n_processes: int, heartbeat: float) -> None:
    """The watch in process 0, which tells each of the others what becomes of another."""
    _begin(meeting.process, wait_for_all(server, meeting, n_processes), heartbeat)


def follow(meeting: Meeting, index: int, heartbeat: float) -> None:
    """The watch in any other process."""
    _begin(*come_to(meeting, index), heartbeat)


def _begin(own: Process, connections: Connections, heartbeat: float) -> None:
    global _watch
    watch = _watch = _Watch(own, {process: connection for process, (connection, _) in connections.items()})
    for process, (connection, lines) in connections.items():
        connection.settimeout(None)
        _keep_alive(connection, heartbeat)
        threading.Thread(target=_listen, args=(watch, process, lines), daemon=True, name="watch").start()
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
    late = threading.Timer(_ENDING, os._exit, (1,))  # where something of this process does not come to its end
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
