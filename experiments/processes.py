"""What experiments with several processes share: they are started on this machine, and find each other by loopback."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(module: str, n: int, options: list[Any], devices: int, cores: list[int] | None = None, **how: Any) -> Any:
    """`n` processes of a module of this folder, which is given a number, `n`, the first one's address, and the options;
    each with so many devices, and tied to one core where cores are given, with one thread.
    """
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if cores is not None:
        flags = "--xla_cpu_multi_thread_eigen=false"
        env |= {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}", "OMP_NUM_THREADS": "1"}
    address, started = f"127.0.0.1:{free_port()}", []
    for i in range(n):
        command = [sys.executable, "-m", f"experiments.{module}", *map(str, [i, n, address, *options])]
        if cores is not None:
            command = ["taskset", "--cpu-list", str(cores[i % len(cores)]), *command]
        given = {name: value[i] if isinstance(value, list) else value for name, value in how.items()}
        started.append(subprocess.Popen(command, env=env, text=True, **given))
    return started


def end(processes: list[Any]) -> None:
    """End those that have not ended, and wait for all."""
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def open_answers() -> IO[str]:
    """What a process was started with as stdout, for its answers alone: Gloo prints to stdout too, from threads of its
    own and in pieces, which come to lie between the answers; that goes nowhere from here on.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    return answers
