"""Windows, scales and the lock-step loop, on data small enough to check by eye."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.control.lockstep import rollout
from common.control.windows import MinMax, Standardizer, window_indices, windows


def test_windows_are_padded_at_both_ends():
    frames, actions = window_indices(3, obs_frames=2, horizon=4)
    assert frames.tolist() == [[0, 0], [0, 1], [1, 2]]
    assert actions.tolist() == [[0, 1, 2, 2], [1, 2, 2, 2], [2, 2, 2, 2]]


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    obs_frames=st.integers(1, 4),
    horizon=st.integers(1, 9),
)
def test_windows_never_cross_episodes(lengths, obs_frames, horizon):
    # the value is the episode's number: a window that crosses holds two values
    observations = [np.full((T + 1, 3), e, np.float32) for e, T in enumerate(lengths)]
    actions = [np.full((T, 2), e, np.float32) for e, T in enumerate(lengths)]
    obs, chunks = windows(observations, actions, obs_frames, horizon)
    assert obs.shape == (sum(lengths), obs_frames, 3)
    assert chunks.shape == (sum(lengths), horizon, 2)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    assert (obs == owner[:, None, None]).all()
    assert (chunks == owner[:, None, None]).all()


def test_window_holds_the_frames_up_to_its_step_and_the_actions_from_it():
    time = np.arange(6, dtype=np.float32)[:, None]
    obs, chunks = windows([time], [time[:5]], obs_frames=2, horizon=3)
    assert obs[3, :, 0].tolist() == [2, 3]
    assert chunks[3, :, 0].tolist() == [3, 4, 4]


def test_standardizer_has_zero_mean_unit_std_and_a_floor():
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, (500, 2, 3)).astype(np.float32)
    values[..., 2] = 7.0  # constant, as Meta-World's padding
    scale = Standardizer.fit(values)
    out = scale(values)
    assert np.abs(out[..., :2].reshape(-1, 2).mean(0)).max() < 1e-5
    assert np.allclose(out[..., :2].reshape(-1, 2).std(0), 1.0, atol=1e-5)
    assert scale.std[2] == np.float32(1e-3)
    assert (out[..., 2] == 0).all()


def test_min_max_maps_to_the_unit_box_and_back_and_fixed_dimensions_to_zero():
    values = np.array([[-0.5, 2.0, 0.3], [1.5, 4.0, 0.3], [0.0, 3.0, 0.3]], np.float32)
    scale = MinMax.fit(values)
    out = scale(values)
    assert out.min() == -1.0 and out.max() == 1.0
    assert (out[:, 2] == 0).all()
    assert np.allclose(scale.inverse(out), values)
    assert np.allclose(scale.inverse(np.array([[9.0, -9.0, 9.0]])), [[1.5, 2.0, 0.3]])


class Counter:
    """A simulation that counts up to its goal."""

    def __init__(self, goal):
        self.now, self.goal, self.success = 0.0, goal, False

    def step(self, action):
        self.now += float(action[0])
        self.success = self.success or self.now >= self.goal


def test_rollout_replans_on_time_shows_the_last_frames_and_stops_at_success_or_limit():
    seen = []

    def policy(history, active):
        seen.append((history[..., 0].copy(), active.copy()))
        return np.ones((len(history), 5, 1), np.float32)

    done = rollout(
        [Counter(5), Counter(99)],
        policy,
        lambda c: np.array([c.now], np.float32),
        obs_frames=2,
        execute=3,
        limit=7,
        track=lambda c: np.array([c.now], np.float32),
        tracked=1,
    )
    assert done.success.tolist() == [True, False]
    assert done.steps.tolist() == [5, 7]
    assert [a.tolist() for _, a in seen] == [[True, True], [True, True], [False, True]]
    assert [h[1].tolist() for h, _ in seen] == [[0, 0], [2, 3], [5, 6]]
    assert done.tracks[0, :6, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(done.tracks[0, 6:]).all()
