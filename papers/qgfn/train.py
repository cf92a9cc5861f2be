"""One run: one method, one task, all its seeds in stacked networks.

    python -m papers.qgfn.train --method p-of-max --task bits --seed 0 1 2 --out DIR

Tasks: bits, rna, qed, qm9str (below); seh has its own loop in molecules.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.cli import run_cli
from common.errors import choose
from common.gfn.nets import adam_with_log_Z
from common.gfn.sampling import sample, uniforms
from common.run import Run
from common.stacked import (
    clip_grad_norm_per_seed,
    generator_states,
    restore_generators,
    seed_generators,
)
from common.torch_utils import setup
from papers.qgfn.baselines import METHODS
from papers.qgfn.learning import Tally, behaviour, decay, learn
from papers.qgfn.method import TAU_Q, ramp, update_lagged
from papers.qgfn.networks import Networks
from papers.qgfn.task import TASKS, StringTask, bits_task, qed_task, qm9_task, rna_task


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "p-of-max"  # name in baselines.METHODS
    task: str = "bits"  # bits, rna, qed, qm9str, seh
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 4000  # gradient steps (paper: 50k on bits, 10k on fragments, 100k on QM9)
    batch: int = 16  # trajectories per step and seed [code: bits 16, molecules 64]
    eval_every: int = 100  # steps between logged lines
    beta: float | None = None  # reward exponent (default: the task's) [paper: bits 3, sEH 32]
    p: float | None = None  # greediness (default: the method's)
    n: int | None = None  # steps of the Q target (default: the trajectory's length)
    ramp_share: float = 0.15  # share of the steps in which p rises [code: 1500 steps]
    objective: str = "tb"  # P_F's objective: tb or stb
    lam: float = 0.99  # lambda of SubTB
    lr: float = 1e-3  # Adam, both networks [code: 1e-4]
    lr_log_Z: float = 0.1  # Adam, log Z [code: 1e-3]
    lr_half_life: float = 0.0  # steps in which lr halves, 0: never [code: 20k]
    log_Z_half_life: float = 0.0  # the same for log Z's rate [code: 50k]
    weight_decay: float = 0.0  # [code: 1e-8]
    grad_clip: float = 10.0  # gradient norm of each network [code]
    tau_q: float = TAU_Q  # weight of the old copy in the lagged Q [code: 0.9-0.95]
    sampling_tau: float = 0.0  # weight of the old copy in the networks that sample [code: 0.9]
    net: str = "mlp"  # strings: mlp or transformer [paper: transformer 3 x 64]
    hidden: int = 256  # MLP: width of the two hidden layers
    length: int | None = None  # rna, qed, qm9str: letters (default: 8, 4, 5)
    n_bits: int = 32  # bits: n [paper: 120]
    word_bits: int = 4  # bits: k [paper]
    n_modes: int = 16  # bits: |M| [paper: 60]
    delta: int = 3  # bits: Levenshtein radius of "mode found" [paper: 30 at n=120]
    fragments: str = "blocks_PDB_105.json"  # seh: fragment list in $PAPERS_DATA/seh
    proxy: str = "seh_proxy.npz"  # seh: proxy weights in $PAPERS_DATA/seh
    width: int = 128  # seh: width of the graph transformers [paper]
    max_blocks: int = 8  # seh: fragments per molecule
    samples: int = 1000  # seh: molecules drawn from the final model


def make_task(cfg: Config) -> StringTask:
    """The string task of a configuration, at the task's own beta."""
    if cfg.task == "bits":
        return bits_task(cfg.n_bits, cfg.word_bits, cfg.n_modes, cfg.delta)
    made = {"rna": rna_task, "qed": qed_task, "qm9str": qm9_task}[cfg.task]
    return made() if cfg.length is None else made(cfg.length)


def make_networks(cfg: Config, task: StringTask, *, policy: bool = True) -> Networks:
    """The networks that the method learns; without ``policy`` the lagged copy of Q."""
    method = METHODS[cfg.method]
    return Networks(
        cfg.net,
        cfg.seed,
        task.env,
        learns_pf=method.learns_pf and policy,
        learns_q=method.learns_q,
        hidden=cfg.hidden,
        flow=cfg.objective == "stb",
    )


def exponent(cfg: Config, task: StringTask) -> float:
    """The reward exponent of P_F's target."""
    method = METHODS[cfg.method]
    if method.beta is not None:
        return method.beta
    return (task.beta if cfg.beta is None else cfg.beta) * method.beta_factor


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    choose("objective", cfg.objective, ("tb", "stb"))
    if cfg.task == "seh":
        from papers.qgfn.molecules import train_molecules

        train_molecules(cfg)
    else:
        train_strings(cfg)


def train_strings(cfg: Config) -> None:
    """All methods on strings: sample from mu, learn P_F on R^beta and Q on R."""
    method = METHODS[cfg.method]
    task = make_task(cfg)
    env = task.env
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    env.device = device
    n_seeds, beta = len(cfg.seed), exponent(cfg, task)
    greediness = method.p if cfg.p is None else cfg.p
    ramp_steps = round(cfg.ramp_share * cfg.steps) if method.ramps else 0
    n = cfg.n or method.n or env.length  # the length: Monte Carlo, no bootstrap, no lagged Q

    nets = lagged = sampler = optimizer = None
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device))
    if method.learns_pf or method.learns_q:
        nets = sampler = make_networks(cfg, task).to(device)
        if cfg.sampling_tau > 0:
            sampler = make_networks(cfg, task).to(device)
        if method.learns_q and n < env.length:
            lagged = make_networks(cfg, task, policy=False).to(device)
        optimizer, _ = adam_with_log_Z(
            nets,
            log_Z if method.learns_pf and cfg.objective == "tb" else None,
            lr=cfg.lr,
            lr_log_Z=cfg.lr_log_Z,
            weight_decay=cfg.weight_decay,
        )
    generators = seed_generators(cfg.seed, 1, device)
    rates = ((cfg.lr, cfg.lr_half_life), (cfg.lr_log_Z, cfg.log_Z_half_life))
    tally = Tally(n_seeds, task, cfg.eval_every * cfg.batch, device)
    learning = {"nets": nets, "lagged": lagged, "sampler": sampler, "optimizer": optimizer}

    step = 0
    state = run.restore()
    if state:
        step = state["step"]
        for name, part in learning.items():
            if part is not None:
                part.load_state_dict(state[name])
        log_Z.data.copy_(state["log_Z"])
        restore_generators(generators, state["generators"])
        tally.load(state["tally"])

    def checkpoint() -> dict[str, object]:
        parts = {k: {} if part is None else part.state_dict() for k, part in learning.items()}
        return {
            **parts,
            "step": step,
            "log_Z": log_Z.data,
            "generators": generator_states(generators),
            "tally": tally.tree(),
        }

    while step < cfg.steps:
        p = ramp(greediness, step, ramp_steps)
        u = uniforms(generators, (env.length, cfg.batch))
        mu = behaviour(sampler, env, method.mixture, p)
        traj = sample(env, mu, u, epsilon=method.epsilon)
        reward, hits = task.score(traj.last)  # raw R [S, B]
        tally.add(traj.last, reward, hits, step)

        learned = None
        if nets is not None and optimizer is not None:
            learned = learn(
                nets,
                lagged,
                env,
                traj,
                reward=reward,
                log_reward=task.log_reward(reward, beta),
                log_Z=log_Z,
                n=n,
                objective=cfg.objective,
                lam=cfg.lam,
            )
            optimizer.zero_grad()
            learned.total().backward()
            clip_grad_norm_per_seed(list(nets.parameters()), cfg.grad_clip)
            decay(optimizer, rates, step)
            optimizer.step()
            if lagged is not None:
                update_lagged(lagged.values(), nets.values(), cfg.tau_q)
            if sampler is not None and sampler is not nets:
                update_lagged(sampler.parameters(), nets.parameters(), cfg.sampling_tau)

        step += 1
        if step % cfg.eval_every == 0 or step == cfg.steps:
            n_steps = (step - 1) % cfg.eval_every + 1
            mean_reward, top = tally.close_window(n_steps * cfg.batch, n_steps)
            line: dict[str, float | list[float]] = {
                "mean_reward": mean_reward.tolist(),
                "top_reward": top.tolist(),
                "modes": task.count(tally.found).tolist(),
                "p": p,
            }
            if learned is not None and learned.policy_loss is not None:
                line["policy_loss"] = learned.policy_loss.tolist()
                line["log_Z"] = log_Z.tolist()
            if learned is not None and learned.value_loss is not None:
                line["value_loss"] = learned.value_loss.tolist()
            if learned is not None and method.mixture is not None and method.ramps:
                line["pruned"] = learned.pruned(method.mixture, p).tolist()
            run.log(step, **line)
        if run.due(step):
            run.save(step, checkpoint())
    run.finish(checkpoint())


if __name__ == "__main__":
    run_cli(train, Config)
