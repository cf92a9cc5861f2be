"""Trajectories per CPU second of a TB, DB or SubTB training step, ours against torchgfn.

    python -m papers.gfn_losses.bench [--json FILE]

Batch 16 and 256 with one seed, and batch 16 with ten seeds stacked, which is how this project
trains (the peer trains one seed after the other). The same HyperGrid (D=4, H=8), the same network
(MLP 2x256, LeakyReLU, torso shared by P_F, a learned P_B and, for DB and SubTB, log F), Adam,
on-policy; repeats of both sides are interleaved and medians compared. CPU time, so that neither
the machine's other load nor threads count. Both sides train on the forward pass of the rollout
(the peer's DB and SubTB evaluate log F once more, as its API has it); ours is what
``train.py --reuse`` runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from common.cli import run_cli
from common.gfn.coordinates import sample_states, visit_distinct
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP, adam_with_log_Z
from common.gfn.rollout import CompiledTrajectories
from common.gfn.sampling import uniforms
from common.stacked import clip_grad_norm_per_seed, seed_generators
from common.torch_utils import setup
from papers.gfn_losses.grid import grid_loss
from papers.gfn_losses.method import QUADRATIC

NDIM, HEIGHT, HIDDEN = 4, 8, 256
REWARD = (1e-3, 0.5, 2.0)
AIM = 5.0  # times the peer's rate


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    batches: tuple[int, ...] = (16, 256, 16)  # trajectories per step and seed
    seeds: tuple[int, ...] = (1, 1, 10)  # seeds that our side stacks, for each batch
    objectives: tuple[str, ...] = ("tb", "db", "stb")
    repeats: int = 9  # interleaved repeats of each side
    steps: int = 10  # training steps per repeat


def our_step(objective: str, batch: int, n_seeds: int) -> Callable[[], None]:
    """One training step of this project's code, all seeds at once."""
    env = HyperGrid(NDIM, HEIGHT, REWARD)
    n_out = env.n_actions + env.n_backward + 1
    net = StackedMLP(seed_generators(range(n_seeds), 0), (env.input_dim, HIDDEN, HIDDEN, n_out))
    log_Z = nn.Parameter(torch.zeros(n_seeds)) if objective == "tb" else None
    optimizer, parameters = adam_with_log_Z(net, log_Z, lr=1e-3, lr_log_Z=0.1)
    generators = seed_generators(range(n_seeds), 1)

    def step() -> None:
        u = uniforms(generators, (env.max_length, batch))
        traj = sample_states(net, env, u)
        assert isinstance(traj, CompiledTrajectories)
        visited = visit_distinct(net, env, traj, flow=objective != "tb")
        surrogate, _ = grid_loss(objective, visited, traj, env.stop, log_Z, 0.9, QUADRATIC, 50.0)
        optimizer.zero_grad()
        surrogate.sum().backward()
        clip_grad_norm_per_seed(parameters, 1000.0)
        optimizer.step()

    return step


def peer_step(objective: str, batch: int) -> Callable[[], None]:
    """One training step as torchgfn's HyperGrid tutorials do it (log-probabilities kept)."""
    from gfn.estimators import DiscretePolicyEstimator, ScalarEstimator
    from gfn.gflownet import DBGFlowNet, SubTBGFlowNet, TBGFlowNet
    from gfn.gym import HyperGrid as PeersGrid
    from gfn.preprocessors import KHotPreprocessor
    from gfn.utils.modules import MLP

    r0, r1, r2 = REWARD
    env = PeersGrid(NDIM, HEIGHT, reward_fn_kwargs={"R0": r0, "R1": r1, "R2": r2})
    preprocessor = KHotPreprocessor(height=HEIGHT, ndim=NDIM)
    n_in = preprocessor.output_dim
    forward = MLP(n_in, env.n_actions, HIDDEN, 2, activation_fn="leaky_relu")
    backward = MLP(n_in, env.n_actions - 1, HIDDEN, 2, trunk=forward.trunk)
    pf = DiscretePolicyEstimator(forward, env.n_actions, preprocessor=preprocessor)
    pb = DiscretePolicyEstimator(
        backward, env.n_actions, preprocessor=preprocessor, is_backward=True
    )
    if objective == "tb":
        model = TBGFlowNet(pf=pf, pb=pb, init_logZ=0.0)
        optimizer = torch.optim.Adam(model.pf_pb_parameters(), lr=1e-3)
        optimizer.add_param_group({"params": model.logz_parameters(), "lr": 0.1})
    else:
        flow = MLP(n_in, 1, HIDDEN, 2, trunk=forward.trunk)
        log_flow = ScalarEstimator(flow, preprocessor=preprocessor)
        if objective == "db":
            model = DBGFlowNet(pf=pf, pb=pb, logF=log_flow)
        else:
            model = SubTBGFlowNet(
                pf=pf, pb=pb, logF=log_flow, lamda=0.9, weighting="geometric_within"
            )
        parameters = {id(p): p for p in model.parameters()}  # the trunk is shared
        optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)

    def step() -> None:
        batch_of = model.sample_trajectories(env, n=batch, save_logprobs=True)
        optimizer.zero_grad()
        samples = model.to_training_samples(batch_of)
        model.loss(env, samples, recalculate_all_logprobs=False).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1000.0)
        optimizer.step()

    return step


def bench(cfg: BenchConfig) -> None:
    """Prints trajectories per second of both sides and their ratio."""
    setup("cpu", 0)
    result = {}
    settings = [
        (objective, batch, n_seeds)
        for objective in cfg.objectives
        for batch, n_seeds in zip(cfg.batches, cfg.seeds, strict=True)
    ]
    for objective, batch, n_seeds in settings:
        sides = {
            "ours": our_step(objective, batch, n_seeds),
            "torchgfn": peer_step(objective, batch),
        }
        for step in sides.values():  # warm up
            step()
            step()
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(cfg.repeats):
            for name, step in sides.items():
                start = time.process_time()
                for _ in range(cfg.steps):
                    step()
                seconds[name].append((time.process_time() - start) / cfg.steps)
        rate = {"ours": n_seeds * batch / median(seconds["ours"])}
        rate["torchgfn"] = batch / median(seconds["torchgfn"])
        ratio = rate["ours"] / rate["torchgfn"]
        result[f"{objective}, batch {batch}, seeds {n_seeds}"] = {**rate, "ratio": ratio}
        print(
            f"{objective.upper()} step, HyperGrid D={NDIM} H={HEIGHT}, batch {batch}, "
            f"{n_seeds} seed(s): ours {rate['ours']:.0f}, torchgfn {rate['torchgfn']:.0f} "
            f"trajectories/s of CPU, ratio {ratio:.1f}"
            + ("" if ratio >= AIM else f" (below the aim of {AIM:.0f})"),
            flush=True,
        )
    if cfg.json:
        cfg.json.parent.mkdir(parents=True, exist_ok=True)
        cfg.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
