"""Minibatches: a permutation that is one, and random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from glmjax.minibatches import in_epochs, permutation, shuffled


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 1797, 70_000])
def test_a_permutation_of_all_rows(n, key):
    order = np.asarray(permutation(key, n))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_all_orders_are_equally_likely(key):
    draws = 48_000
    orders = np.asarray(jax.vmap(lambda k: permutation(k, 4))(jax.random.split(key, draws)))
    counts = np.unique(orders @ 4 ** np.arange(4), return_counts=True)[1]
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_where_rows_draw_equal_bits_the_order_is_still_random(key):
    """70,000 rows share 2^15 values a round: neighbours must be in ascending order half of the time only."""
    order = np.asarray(permutation(key, 70_000)).astype(int)
    ascending = np.mean(np.diff(order) > 0)
    assert abs(ascending - 0.5) < 5 * np.sqrt(1 / 12 / 70_000)
    assert abs(np.corrcoef(order, np.arange(70_000))[0, 1]) < 5 / np.sqrt(70_000)


@pytest.mark.parametrize("batch_size", [1, 6, 7, 24])
def test_each_epoch_visits_every_row_once_in_a_new_order(batch_size, key):
    n = 24
    a, b = (np.asarray(shuffled(jax.random.fold_in(key, e), n, batch_size)) for e in (1, 2))
    assert a.shape == (-(-n // batch_size), batch_size)
    for order in (a, b):
        assert sorted(order[order >= 0]) == list(range(n))
        assert (order.ravel()[:n] >= 0).all()
    assert not np.array_equal(a, b)


def test_an_order_is_one_epochs_or_the_whole_runs():
    order = jnp.arange(12).reshape(6, 2)
    assert in_epochs(order, 4, 3).shape == (3, 2, 2)  # 3 epochs of 4 rows by 2
    assert in_epochs(order, 12, 3).shape == (1, 6, 2)
    assert in_epochs(order, 100, 1).shape == (1, 6, 2)
