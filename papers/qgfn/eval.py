"""A run directory -> rows of metrics, the inference sweep over mixtures and p included.

    python -m papers.qgfn.eval --run DIR

No network is trained here: each trained pair is sampled with every mixture at every p.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.cli import run_cli
from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import terminating_distribution
from common.gfn.sampling import masked_log_softmax, sample, uniforms
from common.run import Run
from common.stacked import seed_generators
from common.torch_utils import setup
from papers.qgfn.config import Config, exponent, make_networks, make_task
from papers.qgfn.learning import behaviour
from papers.qgfn.method import MIXTURES
from papers.qgfn.methods import METHODS
from papers.qgfn.networks import Networks
from papers.qgfn.task import StringTask

LAST_SHARE = 0.1  # "mean reward" is that of the last tenth of the training samples
CHUNK = 8192  # states per forward pass


@dataclass
class EvalConfig:
    """Evaluate one finished run."""

    run: Path  # run directory
    device: str = "cpu"  # where policies are sampled (cuda: worth it for the transformer)
    samples: int = 1000  # strings drawn per policy (molecules: --samples of the training)


#: What a policy samples, a value per seed: mean raw "reward" (exact where the task is enumerable),
#: mean pairwise "distance", "modes" among the samples; where exact also "entropy" of the objects
#: (nats) and "l1", the sum of |P_T - R^beta/Z|.
Measured = dict[str, list[float]]


class Policies:
    """The policies of one trained run, all seeds at once."""

    def __init__(
        self, task: StringTask, nets: Networks | None, seeds: tuple[int, ...], beta: float, n: int
    ) -> None:
        self.task, self.nets, self.seeds, self.n_samples = task, nets, seeds, n
        self.dag: EnumeratedDAG | None = None
        if task.enumerable:
            self._tabulate(beta)

    @torch.no_grad()
    def _tabulate(self, beta: float) -> None:
        env = self.task.env
        self.dag = env.dag()
        self.objects = torch.isfinite(self.dag.log_reward)
        self.states = env.all_states()
        self.inner = self.states[~self.objects]
        self.reward = torch.zeros(self.dag.n_states, dtype=torch.float64)
        self.reward[self.objects] = self.task.score(self.states[self.objects])[0].double()
        log_reward = torch.full_like(self.reward, -torch.inf)
        log_reward[self.objects] = self.task.log_reward(self.reward[self.objects], beta)
        self.target = torch.softmax(log_reward, 0)
        self.logits = self.q = None
        if self.nets is None:
            return
        seeds = len(self.seeds)
        parts = [self.nets(part.expand(seeds, -1, -1)) for part in self.inner.split(CHUNK)]
        if parts[0][0] is not None:
            self.logits = torch.cat([logits for logits, _, _ in parts], 1)  # type: ignore[misc]
        if parts[0][1] is not None:
            self.q = torch.cat([q for _, q, _ in parts], 1)  # type: ignore[misc]

    def measure(self, mixture: str | None, p: float, epsilon: float = 0.0) -> Measured:
        """Samples of mu at p, and what can be known exactly."""
        if self.dag is None:
            return self._sampled(mixture, p, epsilon)
        return self._exact(mixture, p, epsilon)

    def _sampled(self, mixture: str | None, p: float, epsilon: float) -> Measured:
        env = self.task.env
        # the same uniform numbers for every policy
        u = uniforms(seed_generators(self.seeds, 3, env.device), (env.length, self.n_samples))
        mu = behaviour(self.nets, env, mixture, p)
        objects = sample(env, mu, u, epsilon=epsilon).last
        reward, hits = self.task.score(objects)
        modes = self.task.count(hits.any(1)).reshape(len(self.seeds), -1)[:, 0]
        distance = [self.task.distance(x) for x in objects]
        rewards = reward.double().mean(1).tolist()
        return {"reward": rewards, "distance": distance, "modes": modes.tolist()}

    def _exact(self, mixture: str | None, p: float, epsilon: float) -> Measured:
        assert self.dag is not None
        log_mu = self.table(mixture, p)
        mu = log_mu.double().exp()
        if epsilon:
            mu = (1 - epsilon) * mu + epsilon / mu.shape[-1]
        result: Measured = {k: [] for k in ("reward", "distance", "modes", "entropy", "l1")}
        full = torch.full((self.dag.n_states, self.dag.n_actions), -torch.inf, dtype=torch.float64)
        for i, generator in enumerate(seed_generators(self.seeds, 3)):
            full[~self.objects] = mu[i].log()
            p_terminal = terminating_distribution(self.dag, full)
            result["reward"].append(float((p_terminal * self.reward).sum()))
            result["entropy"].append(float(torch.special.entr(p_terminal).sum()))
            result["l1"].append(float((p_terminal - self.target).abs().sum()))
            u = torch.rand(self.n_samples, generator=generator, dtype=torch.float64)
            cdf = p_terminal.cumsum(0)
            drawn = self.states[torch.searchsorted(cdf, u * cdf[-1], right=True)]
            result["distance"].append(self.task.distance(drawn))
            result["modes"].append(int(self.task.count(self.task.score(drawn)[1].any(0))))
        return result

    def table(self, mixture: str | None, p: float) -> Tensor:
        """log mu at all incomplete states. [S, N, A]."""
        shape = (len(self.seeds), len(self.inner), self.task.env.n_actions)
        mask = torch.ones(shape, dtype=torch.bool)
        logits = torch.zeros(shape) if self.logits is None else self.logits
        if mixture is None:
            return masked_log_softmax(logits, mask)
        assert self.q is not None
        return MIXTURES[mixture](logits, self.q, mask, p)

    @torch.no_grad()
    def gap_at_zero(self, mixture: str) -> float:
        """Largest |mu - P_F| at p = 0, over the states of a rollout."""
        assert self.nets is not None
        env = self.task.env
        u = uniforms(seed_generators(self.seeds, 4, env.device), (env.length, 20))
        states = sample(env, behaviour(self.nets, env, None, 0.0), u).states[..., :-1, :]
        logits, q, _ = self.nets(states)
        assert logits is not None and q is not None
        mask = env.forward_mask(states)
        mu = MIXTURES[mixture](logits, q, mask, 0.0).exp()
        return float((mu - masked_log_softmax(logits, mask).exp()).abs().max())


def evaluate(cfg: EvalConfig) -> None:
    """Writes eval.json."""
    run = Run.load(cfg.run)
    config = run.config(Config)
    rows: list[dict[str, Any]] = []
    tuned = {} if config.lr is None else {"lr": config.lr}

    def add(metric: str, values: Any, **labels: Any) -> None:
        for seed, value in zip(config.seed, values, strict=True):
            key = {"method": config.method, "task": config.task, "seed": seed, "metric": metric}
            rows.append({**key, "value": value, **tuned, **labels})

    training(config, run.metrics(), add)
    if config.task == "seh":
        from papers.qgfn.molecules import MoleculePolicies, epsilon_of  # needs RDKit

        device = setup(cfg.device, config.seed[0])
        trained = MoleculePolicies(config, run.final(), device)
        policies(config, trained, epsilon_of(METHODS[config.method]), add)
    else:
        strings = string_policies(config, run.final(), cfg)
        policies(config, strings, METHODS[config.method].epsilon, add)
    run.write_eval(rows)


def training(config: Config, lines: list[dict[str, Any]], add: Callable[..., None]) -> None:
    """What was logged: curves against trajectories, and their ends."""
    trajectories = [line["step"] * config.batch for line in lines]
    n_last = max(1, round(LAST_SHARE * len(lines)))
    for metric in ("mean_reward", "top_reward", "pruned", "policy_loss", "value_loss", "modes"):
        if metric in lines[0]:
            values = np.array([line[metric] for line in lines], dtype=float)  # [lines, S, ...]
            curve = values if values.ndim == 2 else values[..., 0]
            add(metric, curve.T.tolist(), step=trajectories)
            if metric == "mean_reward":
                add("mean_reward_last", curve[-n_last:].mean(0).tolist())
            if metric == "modes":
                add("modes_found", curve[-1].tolist())
                if values.ndim == 3:
                    add("modes_found_within_2", values[-1, :, 1].tolist())
            if metric in ("top_reward", "pruned"):
                add(f"{metric}_final", curve[-1].tolist())
    if "log_Z" in lines[0] and config.objective == "tb":
        add("log_Z", lines[-1]["log_Z"])


def string_policies(config: Config, final: Any, cfg: EvalConfig) -> Policies:
    """The trained networks of a string task."""
    method = METHODS[config.method]
    task = make_task(config)
    device = setup("cpu" if task.enumerable else cfg.device, config.seed[0])
    task.env.device = device
    nets = None
    if method.learns_pf or method.learns_q:
        nets = make_networks(config, task)
        nets.load_state_dict(final["nets"])
        nets.to(device).eval().requires_grad_(False)
    return Policies(task, nets, config.seed, exponent(config, task.beta), cfg.samples)


def policies(config: Config, trained: Any, epsilon: float, add: Callable[..., None]) -> None:
    """The final model's samples, and of a pair of networks the sweep over mixtures and p.

    Args:
        config: of the run.
        trained: has ``measure(mixture, p, epsilon)`` and ``gap_at_zero(mixture)``.
        epsilon: random actions of the method's own samples; the sweep has none.
        add: metric, a value per seed, labels -> rows.
    """
    method = METHODS[config.method]
    p = method.p if config.p is None else config.p
    own = trained.measure(method.mixture, p, epsilon)
    for name, values in own.items():
        if name != "l1":
            add(f"final_{name}", values)
    if method.mixture is None or not method.sweeps:
        if method.mixture is None and "l1" in own:
            add("l1_of_pf", own["l1"])
        return
    alone = trained.measure(method.mixture, 0.0)
    if "l1" in alone:
        add("l1_of_pf", alone["l1"])
    add("p0_gap", [trained.gap_at_zero(method.mixture)] * len(config.seed))
    for mixture in MIXTURES:
        found = [trained.measure(mixture, p) if p else alone for p in config.sweep]
        for name in ("reward", "distance", "modes", "entropy"):
            if name in alone:
                values = np.array([each[name] for each in found], dtype=float).T  # [S, P]
                add(f"sweep_{name}", values.tolist(), step=list(config.sweep), mixture=mixture)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
