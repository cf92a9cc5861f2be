"""The decision transformer: what an action may depend on; rollouts show it what training showed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from common.control import decision_transformer as module
from common.control.decision_rollout import GymnasiumBatch, SimulatedBatch, acting, rollout
from common.control.decision_transformer import (
    PromptTokens,
    TransformerConfig,
    adamw,
    attention_mask,
    decision_transformer,
)
from common.control.episodes import Episode
from common.control.sequences import Windows, action_loss, sequence_data, windows_at
from common.control.trajectories import joined
from tests.fake_cuda import fake_cuda

pytest.importorskip("transformers", reason="needs the extra 'control'")

B, K, S, A, PROMPT = 2, 4, 3, 2, 3
CONFIG = TransformerConfig(
    S, A, max_steps=30, prompted=True, width=16, layers=2, heads=2, dropout=0.0
)


def some(length, seed=0, padded=0):
    g = torch.Generator().manual_seed(seed)
    real = torch.ones(B, length, dtype=torch.bool)
    real[0, :padded] = False
    return Windows(
        torch.randn(B, length, generator=g),
        torch.randn(B, length, S, generator=g),
        torch.rand(B, length, A, generator=g) * 2 - 1,
        torch.arange(length).expand(B, -1) + 5,
        real,
    )


@pytest.fixture(scope="module")
def model():
    made = decision_transformer(CONFIG, seed=0).eval()
    with torch.no_grad():  # heads of size 1: what changes is seen
        for p in made.parameters():
            if p.dim() > 1:
                p.normal_(0, 0.3, generator=torch.Generator().manual_seed(p.numel()))
    return made


def changed(windows, name, step):
    value = getattr(windows, name).clone()
    value[:, step] += 1
    return replace(windows, **{name: value})


@pytest.mark.parametrize("name", ["returns", "states", "actions", "timesteps"])
@pytest.mark.parametrize("step", [0, 2, 3])
def test_an_action_depends_on_the_past_its_return_and_its_state_alone(model, name, step):
    windows = some(K)
    before, after = model(windows), model(changed(windows, name, step))
    own = step + 1 if name == "actions" else step  # its action comes after the state's token
    assert torch.equal(before[:, :own], after[:, :own])
    assert ((before - after)[:, own:].abs().amax(-1) > 1e-6).all()


def test_the_prompt_stands_before_the_window(model):
    windows, prompt = some(K), some(PROMPT, 1)
    before = model(windows, prompt)
    assert before.shape == (B, K, A)
    for name in ("returns", "states", "actions"):
        after = model(windows, changed(prompt, name, PROMPT - 1))
        assert ((before - after).abs().amax(-1) > 1e-6).all(), name
    last = model(changed(windows, "actions", K - 1), prompt)
    assert torch.equal(before, last)


def test_a_prompt_of_padding_is_no_prompt(model):
    windows, prompt = some(K), some(PROMPT, 1)
    absent = replace(prompt, real=torch.zeros_like(prompt.real))
    torch.testing.assert_close(model(windows, absent), model(windows), rtol=0, atol=1e-6)


@pytest.mark.parametrize("prompted", [False, True])
def test_padding_does_not_matter(model, prompted):
    prompt = some(PROMPT, 1) if prompted else None
    windows = some(K, padded=2)
    before = model(windows, prompt)[0, 2:]
    other = changed(changed(changed(windows, "states", 0), "actions", 1), "returns", 1)
    assert torch.equal(model(other, prompt)[0, 2:], before)
    short = Windows(*(getattr(windows, f)[:, 2:] for f in Windows.__dataclass_fields__))
    torch.testing.assert_close(model(short, prompt)[0], before, rtol=0, atol=1e-6)


def test_the_mask_by_hand():
    real = torch.tensor([[False, True, True]])
    wanted = [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert attention_mask(real)[0, 0].int().tolist() == wanted


def test_the_fused_attention_is_the_plain_one(model, monkeypatch):
    windows, prompt = some(K, padded=1), some(PROMPT, 1)
    fused = model(windows, prompt)

    def additive(real):
        return torch.where(attention_mask(real), 0.0, -torch.inf)

    monkeypatch.setattr(module, "attention_mask", additive)
    monkeypatch.setattr(model.blocks.config, "_attn_implementation", "eager")
    torch.testing.assert_close(model(windows, prompt), fused, rtol=0, atol=1e-5)


def test_the_blocks_have_no_positions_of_their_own(model):
    windows = some(K)
    shifted = Windows(*(getattr(windows, f)[:, 1:] for f in Windows.__dataclass_fields__))
    padded = replace(windows, real=windows.real & (torch.arange(K) > 0))
    torch.testing.assert_close(model(shifted), model(padded)[:, 1:], rtol=0, atol=1e-6)
    assert not {n for n, _ in model.named_parameters() if "wpe" in n or "wte" in n}


def test_a_soft_prompt_and_a_generated_one_get_gradients(model):
    windows, prompt = some(K), some(PROMPT, 1)
    tokens, real = model.embed_prompt(prompt)
    soft = torch.nn.Parameter(tokens.detach().clone())
    torch.testing.assert_close(model(windows, PromptTokens(soft, real)), model(windows, prompt))
    action_loss(model(windows, PromptTokens(soft, real)), windows).backward()
    assert soft.grad.abs().amax(-1).min() > 0
    states = prompt.states.clone().requires_grad_()
    action_loss(model(windows, replace(prompt, states=states)), windows).backward()
    assert states.grad.abs().amin() > 0
    unprompted = decision_transformer(replace(CONFIG, prompted=False), 0)
    with pytest.raises(ValueError, match="without prompts"):
        unprompted(windows, prompt)


def test_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    one = decision_transformer(CONFIG, 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again, other = decision_transformer(CONFIG, 1), decision_transformer(CONFIG, 2)
    pairs = list(zip(one.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_the_blocks_have_as_many_parameters_as_counted_by_hand():
    sizes = replace(CONFIG, width=64, layers=2, prompted=False)
    made = decision_transformer(sizes, 0)
    assert sum(p.numel() for p in made.blocks.parameters()) == 100_096
    interface = (1 + S + A + 3) * 64 + 30 * 64 + 2 * 64 + (64 + 1) * A
    assert sum(p.numel() for p in made.parameters()) == 100_096 + interface


def test_masked_weights_go_in_by_functional_call(model):
    windows = some(K)
    names = [n for n, p in model.named_parameters() if n.startswith("blocks.h.") and p.dim() > 1]
    assert len(names) == 4 * CONFIG.layers  # qkv, output, two of the MLP
    weights = dict(model.named_parameters())
    nothing = {n: torch.zeros_like(weights[n]) for n in names}
    without = functional_call(model, nothing, (windows,))
    assert not torch.allclose(without, model(windows))
    assert torch.equal(
        functional_call(model, {n: weights[n] for n in names}, (windows,)), model(windows)
    )


# -- rollouts -----------------------------------------------------------------------------------


class Walk:
    """The reward is the first action; the goal is reached at 2."""

    def __init__(self, start=0.0):
        self.obs, self.reward, self.success = np.array([start, 1, 1], np.float32), 0.0, False

    def step(self, action):
        self.reward = float(action[0])
        self.obs = self.obs + np.array([self.reward, 0, 0], np.float32)
        self.success = self.success or self.obs[0] >= 2


def recorded(actions):
    seen = []

    def policy(windows):
        seen.append(windows)
        return torch.tensor(actions)[:, len(seen) - 1]

    return policy, seen


def test_a_rollout_shows_the_windows_that_training_has():
    actions = np.random.default_rng(0).uniform(-0.1, 0.1, (B, 7, A)).astype(np.float32)
    policy, seen = recorded(actions)
    done = rollout(
        SimulatedBatch([Walk(0.0), Walk(0.5)]),
        policy,
        action_dim=A,
        context=K,
        limit=7,
        target_return=np.array([3.0, 4.0]),
        return_scale=np.array([10.0, 5.0]),
        standardize=lambda x: 2 * x,
    )
    rewards = actions[..., 0]
    assert done.returns == pytest.approx(rewards.sum(1, dtype=float))
    assert done.steps.tolist() == [7, 7] and not done.success.any()
    for b, (start, target, scale) in enumerate([(0.0, 3.0, 10.0), (0.5, 4.0, 5.0)]):
        position = np.concatenate([[start], start + np.cumsum(rewards[b])])
        states = np.stack([position, np.ones(8), np.ones(8)], -1).astype(np.float32)
        zero = np.zeros(7, bool)
        episode = Episode(2 * states, actions[b], rewards[b], zero, zero)
        data = sequence_data(joined([episode]), return_scale=scale)
        behind = (target - rewards[b].sum(dtype=float)) / scale
        for t in range(7):
            first = max(0, t - K + 1)
            n = t + 1 - first
            wanted = windows_at(data, torch.tensor([first]), n)
            got = seen[t]
            assert got.real[b].tolist() == [False] * (K - n) + [True] * n
            torch.testing.assert_close(got.states[b, K - n :], wanted.states[0])
            torch.testing.assert_close(got.returns[b, K - n :], wanted.returns[0] + behind)
            assert torch.equal(got.timesteps[b, K - n :], wanted.timesteps[0])
            assert torch.equal(got.actions[b, K - n : -1], wanted.actions[0, :-1])
            assert (got.actions[b, -1] == 0).all()


@pytest.mark.parametrize(
    ("stop", "steps", "returns"), [(True, [2, 4], [2, 2]), (False, [5, 5], [5, 2.5])]
)
def test_an_episode_ends_at_success_if_asked(stop, steps, returns):
    actions = np.stack([np.full((5, A), 1.0), np.full((5, A), 0.5)]).astype(np.float32)
    done = rollout(
        SimulatedBatch([Walk(), Walk()]),
        recorded(actions)[0],
        action_dim=A,
        context=2,
        limit=5,
        target_return=1.0,
        return_scale=1.0,
        stop_at_success=stop,
    )
    assert done.steps.tolist() == steps and done.returns.tolist() == returns
    assert done.success.all()


class Ending:
    """A gymnasium-like environment that falls after its seed's number of steps."""

    def reset(self, seed):
        self.left = seed
        return np.full(S, float(seed)), {}

    def step(self, action):
        self.left -= 1
        return np.full(S, float(self.left)), 1.0, self.left == 0, False, {"success": self.left == 1}


def test_gymnasiums_environments_end_by_themselves():
    batch = GymnasiumBatch([Ending(), Ending()], [2, 4])
    assert batch.observations[:, 0].tolist() == [2, 4]
    done = rollout(
        batch,
        lambda windows: torch.zeros(B, A),
        action_dim=A,
        context=2,
        limit=9,
        target_return=0.0,
        return_scale=1.0,
        stop_at_success=False,
    )
    assert done.steps.tolist() == [2, 4] and done.returns.tolist() == [2, 4]
    assert done.success.all()


def steps_on(device):
    """Two training steps with a prompt, then a rollout: weights and returns."""
    net = decision_transformer(CONFIG, 0).to(device)
    optimizer = adamw(net.parameters(), lr=1e-3)
    zero = np.zeros(9, bool)
    rng = np.random.default_rng(0)
    episode = Episode(
        *(rng.normal(size=shape).astype(np.float32) for shape in ((10, S), (9, A), (9,))),
        zero,
        zero,
    )
    data = sequence_data(joined([episode]), return_scale=2.0, device=device)
    prompt = windows_at(data, torch.tensor([2, 3]), PROMPT)
    for first in (1, 5):
        windows = windows_at(data, torch.tensor([first, 7]), K)
        optimizer.zero_grad()
        action_loss(net(windows, prompt), windows).backward()
        optimizer.step()
    done = rollout(
        SimulatedBatch([Walk(), Walk(1.0)]),
        acting(net, prompt),
        action_dim=A,
        context=K,
        limit=3,
        target_return=1.0,
        return_scale=1.0,
        device=device,
    )
    return torch.cat([p.detach().cpu().flatten() for p in net.parameters()]), done.returns


def test_training_and_rollouts_stay_on_their_device():
    weights, returns = steps_on("cpu")
    with fake_cuda():
        torch.use_deterministic_algorithms(True)  # as every run does
        on_gpu, their_returns = steps_on("cuda")
    torch.testing.assert_close(on_gpu, weights, rtol=1e-4, atol=1e-5)
    assert their_returns == pytest.approx(returns, rel=1e-4, abs=1e-5)
