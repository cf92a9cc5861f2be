"""Counter-based random numbers against published values, and what papers make of them."""

from __future__ import annotations

import numpy as np

from common.random_bits import GOLDEN, mix64, uniform


def test_mix64_gives_the_published_sequence() -> None:
    """SplitMix64 with seed 1234567, as in the generator's public test vectors."""
    with np.errstate(over="ignore"):
        states = [np.uint64(1234567) + np.uint64(i) * GOLDEN for i in range(1, 6)]
    expected = [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]
    assert [int(mix64(state)) for state in states] == expected


def test_uniform_is_the_top_52_bits_of_the_sequence() -> None:
    first = (6457827717110365317 >> 12) + 0.5
    assert uniform(1234567, 0) == first * 2.0**-52
    values = np.array([uniform(7, i) for i in range(20_000)])
    assert ((values > 0) & (values < 1)).all()
    grid = np.arange(1, len(values) + 1) / len(values)
    assert np.abs(np.sort(values) - grid).max() < 1.95 / np.sqrt(len(values))
