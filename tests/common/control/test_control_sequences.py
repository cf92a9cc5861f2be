"""Trajectories, windows and prompts against loops, the transformer against what it may not see."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.control.episodes import Episode
from common.control.sequences import (
    Windows,
    action_loss,
    concatenated,
    prompts,
    random_windows,
    sequence_data,
    windows_at,
)
from common.control.trajectories import best, joined
from common.control.windows import Standardizer

LENGTHS = (4, 1, 6)


def make_episodes(lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Episode(
            rng.normal(size=(T + 1, 3)).astype(np.float32),
            rng.uniform(-1, 1, (T, 2)).astype(np.float32),
            rng.normal(size=T).astype(np.float32),
            np.arange(T) == (T - 1 if e == 0 else -1),
            np.arange(T) == (T - 1 if e else -1),
        )
        for e, T in enumerate(lengths)
    ]


def test_trajectories_are_the_episodes_end_to_end():
    episodes = make_episodes()
    flat = joined(episodes)
    assert len(flat) == sum(LENGTHS) and flat.lengths.tolist() == list(LENGTHS)
    assert flat.timesteps.tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5]
    assert flat.ends.tolist() == [4] * 4 + [5] + [11] * 6
    assert flat.terminated.tolist() == [False] * 3 + [True] + [False] * 7  # no time limit
    at = 0
    for e in episodes:
        T = len(e)
        assert np.array_equal(flat.observations[at : at + T], e.observations[:-1])
        assert np.array_equal(flat.next_observations[at : at + T], e.observations[1:])
        for discount in (1.0, 0.9):
            for t in range(T):
                wanted = sum(discount**k * float(r) for k, r in enumerate(e.rewards[t:]))
                assert flat.returns_to_go(discount)[at + t] == pytest.approx(wanted, abs=1e-9)
        at += T
    assert flat.returns == pytest.approx([e.rewards.sum(dtype=float) for e in episodes])
    with pytest.raises(ValueError, match="an episode"):
        joined([])


def test_the_best_episodes_are_those_of_highest_return():
    episodes = make_episodes((3, 3, 3))
    for e, reward in zip(episodes, (1.0, 5.0, 3.0), strict=True):
        e.rewards[:] = reward
    assert best(episodes, 2) == [episodes[1], episodes[2]]


def test_a_window_is_cut_from_its_episode_and_padded_on_the_left():
    episodes = make_episodes()
    data = sequence_data(joined(episodes), return_scale=10.0)
    K, start = 4, 0
    for e in episodes:
        for s in range(len(e)):
            window = windows_at(data, torch.tensor([start + s]), K)
            n = min(K, len(e) - s)
            assert window.real[0].tolist() == [False] * (K - n) + [True] * n
            inside = slice(s, s + n)
            assert np.array_equal(window.states[0, K - n :].numpy(), e.observations[inside])
            assert np.array_equal(window.actions[0, K - n :].numpy(), e.actions[inside])
            assert window.timesteps[0].tolist() == [0] * (K - n) + list(range(s, s + n))
            togo = [e.rewards[k:].sum(dtype=float) / 10 for k in range(s, s + n)]
            assert window.returns[0, K - n :].numpy() == pytest.approx(togo, abs=1e-6)
            for part in (window.states, window.actions, window.returns):
                assert (part[0, : K - n] == 0).all()
        start += len(e)


def test_the_first_return_to_go_is_the_episodes_return_over_the_tasks_scale():
    episodes = make_episodes()
    for scale in (1.0, 1000.0):
        data = sequence_data(joined(episodes), return_scale=scale)
        window = windows_at(data, data.starts, 1)
        wanted = [e.rewards.sum(dtype=float) / scale for e in episodes]
        assert window.returns[:, 0].numpy() == pytest.approx(wanted, rel=1e-5)


def test_states_are_standardised_and_nothing_else():
    flat = joined(make_episodes())
    scale = Standardizer.fit(flat.observations)
    plain = sequence_data(flat, return_scale=1.0)
    data = sequence_data(flat, return_scale=1.0, standardizer=scale)
    assert np.allclose(data.states.numpy(), scale(flat.observations))
    assert torch.equal(data.actions, plain.actions) and torch.equal(data.returns, plain.returns)


def test_every_step_is_the_beginning_of_a_window_equally_often():
    data = sequence_data(joined(make_episodes()), return_scale=1.0)
    drawn = random_windows(data, torch.Generator().manual_seed(0), 11_000, 3)
    last = drawn.states[:, -1]  # the last step of a window tells nothing of its beginning alone,
    n = drawn.real.sum(1)  # but with the number of steps it does
    first = drawn.states[torch.arange(len(last)), 3 - n]
    counts = [(first == data.states[i]).all(-1).sum().item() for i in range(11)]
    assert sum(counts) == 11_000
    assert min(counts) > 850 and max(counts) < 1150  # 1,000, five standard deviations of 30


def test_prompts_lie_within_one_episode_and_the_end_is_the_end():
    episodes = make_episodes()
    data = sequence_data(joined(episodes), return_scale=1.0)
    random = prompts(data, torch.Generator().manual_seed(0), 600, 3)
    steps = {0: set(), 1: set(), 2: set()}
    for b in range(600):
        real = random.real[b]
        index = [
            int((data.states == random.states[b, k]).all(-1).nonzero()) for k in range(3) if real[k]
        ]
        episode = 0 if index[0] < 4 else 1 if index[0] == 4 else 2
        assert index == list(range(index[0], index[0] + len(index)))
        assert index[-1] < (4, 5, 11)[episode]
        assert len(index) == min(3, LENGTHS[episode])
        steps[episode].add(index[0])
    assert steps == {0: {0, 1}, 1: {4}, 2: {5, 6, 7, 8}}
    end = prompts(data, torch.Generator().manual_seed(0), 50, 3, "end")
    assert set(end.timesteps[:, -1].tolist()) == {3, 0, 5}


def test_the_loss_is_of_real_steps_alone():
    real = torch.tensor([[False, True, True], [True, True, True]])
    actions = torch.zeros(2, 3, 2)
    windows = Windows(torch.zeros(2, 3), torch.zeros(2, 3, 1), actions, real.long(), real)
    predicted = torch.ones(2, 3, 2)
    predicted[0, 0] = 1e6  # padding
    predicted[1, 2] = torch.tensor([1.0, 3.0])
    assert action_loss(predicted, windows).item() == pytest.approx((4 * 1 + 5) / 5)


def test_batches_of_several_tasks_are_put_together():
    data = sequence_data(joined(make_episodes()), return_scale=1.0)
    one, other = windows_at(data, torch.tensor([0, 4]), 2), windows_at(data, torch.tensor([7]), 2)
    both = concatenated([one, other])
    assert torch.equal(both.states, torch.cat([one.states, other.states]))
    assert both.real.tolist() == [[True, True], [False, True], [True, True]]
    assert replace(both, real=both.real).timesteps.dtype == torch.int64
