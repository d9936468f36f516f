"""Statuses, `check`, and files that are whole or not there."""

import numpy as np
import pytest

import glmjax as gj
from glmjax.files import write_atomic


def ended(status):
    return gj.Fit(*[None] * 6, np.asarray(status), *[None] * 6)


def test_every_status_has_a_sentence_that_says_what_to_do():
    for status in gj.Status:
        assert len(status.sentence) > 20
    assert "learning_rate" in gj.Status.NONFINITE.sentence


def test_check_returns_the_fit_or_names_lanes_and_causes():
    good = ended([gj.Status.COMPLETED, gj.Status.STOPPED_EARLY])
    assert gj.check(good) is good
    with pytest.raises(RuntimeError, match="the fit ended NONFINITE: the loss or a parameter"):
        gj.check(ended(gj.Status.NONFINITE))
    status = np.zeros((4, 5), int)
    status[1, 2], status[:, 4] = gj.Status.INVALID_TARGET, gj.Status.NONFINITE
    with pytest.raises(RuntimeError) as error:
        gj.check(ended(status))
    assert "4 of 20 fits ended NONFINITE (lanes (0, 4), (1, 4), (2, 4), (3, 4))" in str(error.value)
    assert "1 of 20 fits ended INVALID_TARGET (lanes (1, 2))" in str(error.value)


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "answer.json"
    write_atomic(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["answer.json"]
    write_atomic(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    with pytest.raises(OSError, match="no-folder"):
        write_atomic(tmp_path / "no-folder" / "x", lambda file: None)
