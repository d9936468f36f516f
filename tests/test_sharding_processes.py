"""Fits over several processes have the numbers of one; a process that dies or fails ends the others, with a sentence."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import glmjax as gj
from glmjax import meetings

ROOT = Path(__file__).parent.parent
FAMILY = gj.poisson()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(47, 3))
Y = RNG.poisson(np.exp(0.4 * X[:, 0] - 0.2 * X[:, 1]))
PARTS = (slice(0, 30), slice(30, 47))  # as many rows as each process happens to have

START = """
    import sys, time
    index, address, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    import jax
    import numpy as np
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    import glmjax as gj
    from pathlib import Path
    gj.cache_compilation(folder + "/programs")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(47, 3))
    y = rng.poisson(np.exp(0.4 * x[:, 0] - 0.2 * x[:, 1])).astype(float)
    own = (slice(0, 30), slice(30, 47))[index]
    gj.sharding.initialize(address, 2, index)
    print("joined", flush=True)
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory, quick):
    """Two processes that run a text, until both have ended or for so many seconds: (status, stdout, stderr) of each;
    where `act` is given it is called with them when both have printed "ready".
    """
    folder = tmp_path_factory.mktemp("processes")

    def run(text, act=None):
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
        code = textwrap.dedent(START) + textwrap.dedent(text)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick}
        out = [(folder / f"out{i}", folder / f"error{i}") for i in range(2)]
        processes = []
        for i in range(2):
            command = [sys.executable, "-c", code, str(i), address, str(folder)]
            with out[i][0].open("w") as stdout, out[i][1].open("w") as stderr:
                processes.append(subprocess.Popen(command, env=env, stdout=stdout, stderr=stderr))
        try:
            if act is not None:
                until = time.monotonic() + 100
                while not all("ready" in stdout.read_text() for stdout, _ in out):
                    assert time.monotonic() < until
                    assert all(process.poll() is None for process in processes), out[0][1].read_text()
                    time.sleep(0.02)
                act(processes)
            for process in processes:
                process.wait(timeout=100)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return [(p.returncode, o.read_text(), e.read_text()) for p, (o, e) in zip(processes, out, strict=True)]

    run.folder = folder
    return run


def test_two_processes_of_two_devices_are_one(together):
    ended = together("""
        data = gj.shard(gj.make_data(x[own], y[own], family=gj.poisson()))
        fit = gj.fit_newton(gj.glm(gj.poisson()), data)
        table = gj.inference(data, fit)
        np.save(f"{folder}/table{index}.npy", np.stack([table.estimate, table.std_error]))
    """)
    assert [status for status, _, _ in ended] == [0, 0], ended
    data = gj.make_data(X, Y, family=FAMILY)
    table = gj.inference(data, gj.fit_newton(gj.glm(FAMILY), data))
    for index in range(2):
        found = np.load(together.folder / f"table{index}.npy")
        np.testing.assert_allclose(found, np.stack([table.estimate, table.std_error]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("whom", [1, 0], ids=["worker", "coordinator"])
def test_a_killed_process_is_named_by_the_other_one_which_ends(together, whom):
    def kill(processes):
        processes[whom].kill()
        kill.at, kill.pid = time.monotonic(), processes[whom].pid
        processes[1 - whom].wait(timeout=60)
        kill.took = time.monotonic() - kill.at

    ended = together(
        """
        if index == 0:
            gj.save_state(folder + "/kept.gj", x)
        from jax.experimental.multihost_utils import process_allgather
        for i in range(1_000_000):
            process_allgather(x[0])
            if i == 1:
                print("ready", flush=True)
        """,
        kill,
    )
    status, _, said = ended[1 - whom]
    assert ended[whom][0] == -signal.SIGKILL
    assert status in (1, -signal.SIGABRT)  # by JAX, which is in a hurry where process 0 is gone
    assert kill.took < 30
    words = rf"glmjax: process {whom} \(pid {kill.pid} on \S+\) died; the others cannot go on without it.*, (.*)\n"
    assert re.search(words, said)[1] == str(together.folder / "kept.gj"), said


def test_bad_rows_in_one_process_are_an_error_in_both(together):
    bad, other = together("""
        data = gj.make_data(x[own], y[own] if index else -y[own], family=gj.poisson())
        gj.shard(data)
    """)
    assert bad[0] == other[0] == 1
    assert "ValueError: y[" in bad[2]
    assert re.search(r"glmjax: process 0 \(.*\) ended by ValueError: y\[.*no checkpoint", other[2]), other


def test_a_status_given_to_sys_exit_ends_both(together):
    other, left = together("""
        if index == 1:
            sys.exit(3)
        from jax.experimental.multihost_utils import process_allgather
        process_allgather(x[0])
    """)
    assert (other[0], left[0]) == (1, 3)
    assert re.search(r"glmjax: process 1 \(.*\) ended by sys.exit\(3\); ", other[2]), other


def test_who_has_done_its_work_waits_for_the_others(together):
    busy, waiting = together("""
        from glmjax import watching
        watching._PATIENCE = 0.3
        if index == 0:
            time.sleep(2)
        print("end")
        sys.exit(0)
    """)
    assert busy[0] == waiting[0] == 0, (busy, waiting)
    assert busy[1].endswith("end\n")
    assert waiting[1].endswith("end\n")
    assert re.search(r"glmjax: process 1 \(.*\) has done its work, and waits for process 0 \(pid", waiting[2]), waiting


def test_a_process_that_dies_when_all_work_is_done_is_named_too(together):
    other, killed = together("""
        import os, signal
        from glmjax import watching
        watching._PARTING = 0.5
        if index == 1:
            jax.distributed.shutdown = lambda: os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert (other[0], killed[0]) == (1, -signal.SIGKILL)
    assert re.search(r"glmjax: process 1 \(.*\) died; ", other[2]), other


def test_rows_that_differ_in_more_than_their_number_are_an_error_in_both(together):
    for ended in together("""
        plain = gj.make_data(x[own], y[own])
        weighted = gj.make_data(x[own], y[own], weight=y[own])
        change = {
            "columns": lambda: gj.make_data(x[own, 1:] , y[own]),
            "bits": lambda: gj.make_data(x[own].astype(np.float32), y[own]),
            "weight": lambda: weighted,
        }
        for name, make in change.items():
            try:
                gj.shard(make() if index else plain)
            except ValueError as error:
                print(error)
        for other, rows in ((weighted, 8), (plain, 12)):  # read by chunks, which have weights in any case
            source = gj.sharding.shard_source([other if index else plain])
            try:
                gj.streaming.fit_newton(gj.glm(gj.poisson()), source, rows=rows if index else 8)
            except ValueError as error:
                print(error)
        print("spread over", gj.shard(plain, gj.sharding.rows_mesh(jax.devices()[:3])).x.shape)
    """):
        assert ended[0] == 0, ended
        lines = [line for line in ended[1].splitlines() if "process" in line and "Gloo" not in line]
        for line, words in zip(lines, ["columns of x is 3 in one and 2", "bits of x is 64 in one and 32",
                                       "weight given is 0 in one and 1", "weight given is 0 in one and 1",
                                       "rows of a chunk for each device is 4 in one and 6"], strict=True):  # fmt: skip
            assert words in line
        assert "spread over (51, 3)" in ended[1]  # of process 0 two devices, and of process 1 one


def test_rows_that_are_fewer_in_a_later_pass_of_one_process_end_both(together):
    other, fewer = together("""
        reads = []

        def read():
            reads.append(len(x[own]) - (5 if index and reads else 0))
            yield gj.make_data(x[own][:reads[-1]], y[own][:reads[-1]])

        gj.streaming.fit_newton(gj.glm(gj.poisson()), gj.sharding.shard_source(gj.streaming.Source(read)), rows=8)
    """)
    assert (other[0] != 0, fewer[0]) == (True, 1), (other, fewer)
    words = "the source yields 8 rows for a chunk the first time and 4 later; it must yield the same rows each time"
    assert words in fewer[2]
    assert re.search(rf"glmjax: process 1 \(.*\) ended by ValueError: {words}", other[2]), other


def test_processes_that_ask_for_different_fits_are_told_so(together):
    for ended in together("""
        poisson, data = gj.glm(gj.poisson()), gj.shard(gj.make_data(x[own], y[own]))
        source = gj.sharding.shard_source([gj.make_data(x[own], y[own])])
        for fit in (
            lambda: gj.fit_newton(poisson, data, l2=0.1 * (1 + index)),
            lambda: gj.fit_lbfgs(gj.glm((gj.poisson, gj.normal)[index]()), data),
            lambda: gj.fit_elastic_net(poisson, data, l1=0.1 * (1 + index)),
            lambda: gj.fit_sgd(poisson, data, jax.random.key(index)),
            lambda: gj.fit_sgd(poisson, data, jax.random.key(0), epochs=1 + index),
            lambda: gj.streaming.fit_newton(poisson, source, params=gj.Dense(np.full(3, index), np.zeros(()))),
        ):
            try:
                fit()
            except ValueError as error:
                print(error)
        print("score", gj.fit_newton(poisson, data, l2=0.1).optimality < 1e-8)
    """):
        assert ended[0] == 0, ended
        words = r"^(\w+) is not the same in process 0 and process 1, which fit one model together: "
        assert re.findall(words, ended[1], flags=re.M) == ["l2", "model", "l1", "key", "epochs", "params"]
        assert "score True" in ended[1]


def test_train_goes_on_from_what_the_first_process_finds(together):
    ended = together("""
        data = gj.shard(gj.make_data(x[own], y[own], family=gj.poisson()))
        place = Path(folder, "" if index == 0 else "nowhere")  # no other process needs the file

        def train(name, epochs):
            return gj.train(place / name, gj.glm(gj.poisson()), data, jax.random.key(0), epochs=epochs, batch_size=16)

        whole = train("whole.gj", 4)
        train("run.gj", 2)
        for fit in (whole, train("run.gj", 4), train("run.gj", 4)):
            parts = (fit.params.w, fit.params.b, fit.loss, fit.history.loss)
            print("bits", b"".join(np.asarray(part).tobytes() for part in parts).hex())
        gj.train(place / "whole.gj", gj.glm(gj.poisson()), data, jax.random.key(1), epochs=4)
    """)
    bits = [[line for line in out.splitlines() if line.startswith("bits")] for _, out, _ in ended]
    assert [len(lines) for lines in bits] == [3, 3], ended
    assert len({*bits[0], *bits[1]}) == 1
    assert [status for status, _, _ in ended] == [1, 1]
    assert "whole.gj holds the run of another model, data, key or settings" in ended[0][2]
    assert re.search(r"process 0 \(.*\) ended by ValueError: .*whole.gj holds .*checkpoint, .*run.gj\n", ended[1][2])


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({}, ValueError, "JAX finds no Slurm, Kubernetes, MPI or TPU"),
        ({"coordinator_address": "host"}, ValueError, 'must be "host:port", such as "10.0.0.1:1234", got \'host\''),
        ({"coordinator_address": "host:0"}, ValueError, "got 'host:0'"),
        ({"coordinator_address": 1234}, TypeError, "got int"),
        ({"num_processes": 0}, ValueError, "num_processes must be 1 or more, got 0"),
        ({"num_processes": 2, "process_id": 2}, ValueError, "process_id is 2 of num_processes=2; they count from 0"),
        ({"process_id": -1}, ValueError, "process_id must be 0 or more, got -1"),
        ({"heartbeat": 0}, ValueError, "heartbeat must be 1 or more, got 0"),
        ({"heartbeat": 1.5}, TypeError, "heartbeat must be a whole number"),
    ],
)
def test_arguments_that_make_no_sense(given, kind, words, monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: _refuse())
    with pytest.raises(kind) as error:
        gj.sharding.initialize(**given)
    assert words in str(error.value)


def _refuse():
    raise ValueError("coordinator_address should be defined.")


def test_one_process_is_left_alone():
    gj.sharding.initialize(num_processes=1)
    assert not jax.distributed.is_initialized()


def test_a_meeting_is_found_by_its_line():
    server, meeting = meetings.open_meeting("127.0.0.1")
    with server:
        assert server.getsockname()[0] == "127.0.0.1"
        assert meeting.hosts[0] == "127.0.0.1"
    assert meetings.Meeting.read(meeting.text()) == meeting
