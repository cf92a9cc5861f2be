"""One run: one loss (``--method``), one experiment (``--task``), all its seeds in stacked networks.

    python -m papers.gfn_losses.train --method linex1 --task grid-tb --seed 0 1 2 --out DIR

Tasks: grid-* and control-* (HyperGrid), bits-* (bit sequences), mols-stb (molecules), theory.
What the loops call besides ``common`` is in grid.py and bits.py; molecules.py has its own loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.cli import run_cli
from common.errors import UserError, choose
from common.gfn import metrics
from common.gfn.coordinates import sample_states, visit_distinct, visit_states
from common.gfn.exact import terminating_distribution
from common.gfn.nets import StackedMLP, adam_with_log_Z
from common.gfn.rollout import CompiledTrajectories
from common.gfn.rows import visit, whole
from common.gfn.sampling import masked_log_softmax, sample, sample_from_table, uniforms
from common.run import Run
from common.stacked import clip_grad_norm_per_seed, seed_generators
from common.torch_utils import GlobalRandom, setup
from papers.gfn_losses.bits import (
    SlotPolicy,
    bits_loss,
    correlation_on_test_set,
    distinct_fraction,
    mark_modes,
)
from papers.gfn_losses.grid import grid_loss, l1_mean_empirical, log_pf_of_all_states
from papers.gfn_losses.method import LOSSES, SLOPE_CLIP
from papers.gfn_losses.task import (
    BIT_TASKS,
    GRID_TASKS,
    TASKS,
    BitSpec,
    grid_spec,
    theory_errors,
)

METHODS = (*LOSSES, "all")  # "all": for the task theory, which checks every loss


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "linex1"  # loss g: quadratic, linex1, linex05, shifted-cosh (theory: all)
    task: str = "grid-tb"  # experiment-objective, e.g. grid-tb, control-tb, bits-db, theory
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2000  # gradient steps (paper: 50k on the grid, 250k on bits)
    batch: int = 16  # trajectories per step and seed [paper; molecules: 4]
    eval_every: int = 50  # steps between evaluations
    slope_clip: float | None = None  # c of the surrogate [code: 50 (the default); molecules 10]
    ndim: int | None = None  # grid: D (default: the task's)
    height: int | None = None  # grid: H (default: the task's)
    reward: str | None = None  # grid: reward setting (default: the task's)
    table_limit: int = 1024  # grid: up to this many states, one forward pass over all per step
    reuse: bool = False  # larger grids, CPU: train on the rollout's own forward pass (not FM)
    n_bits: int = 40  # bits: n [paper: 120]
    word_bits: int = 4  # bits: k [paper: 8]
    n_modes: int = 20  # bits: |M| [paper: 60]
    delta: float = 5.0  # bits: Hamming radius of "mode found" [paper: 30 at n=120]
    net: str = "mlp"  # bits: mlp or transformer [paper: transformer]
    fragments: str = "blocks_PDB_105.json"  # molecules: fragment list in $PAPERS_DATA/seh
    proxy: str = "seh_proxy.npz"  # molecules: proxy weights in $PAPERS_DATA/seh
    width: int = 256  # molecules: width of the policy network [code]
    max_blocks: int = 8  # molecules: fragments per molecule [paper]


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    if (cfg.method == "all") != (cfg.task == "theory"):
        raise UserError("--method all goes with --task theory, and no other method does")
    if cfg.task.startswith("mols"):
        from papers.gfn_losses.molecules import train_molecules

        train_molecules(cfg)
    elif cfg.task in BIT_TASKS:
        train_bits(cfg)
    elif cfg.task in GRID_TASKS:
        train_grid(cfg)
    else:
        train_theory(cfg)


def train_theory(cfg: Config) -> None:
    """Experiment C: relative gradient errors of Theorem 1 in float64."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup(cfg.device, cfg.seed[0])
    errors = {
        name: [[dag, part, error] for dag, part, error in theory_errors(loss)]
        for name, loss in LOSSES.items()
    }
    run.finish(errors=errors)


def train_grid(cfg: Config) -> None:
    """Experiment A and its control: on-policy training on a HyperGrid, exact metrics."""
    loss = LOSSES[cfg.method]
    name = cfg.task.split("-", 1)[1]
    clip = SLOPE_CLIP if cfg.slope_clip is None else cfg.slope_clip
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    spec = grid_spec(cfg.task, cfg.ndim, cfg.height, cfg.reward)
    env = spec.env(device)
    dag = env.dag().to(device)
    n_seeds, n_states = len(cfg.seed), env.n_states
    all_states = env.all_states()
    encoded = env.encode(all_states) if n_states <= cfg.table_limit else None
    regions = env.region(all_states)

    # one torso with the heads P_F, P_B (learned) and F; FM: edge flows instead of P_F, no P_B
    n_out = env.n_actions + env.n_backward + 1
    init = seed_generators(cfg.seed, 0)
    net = StackedMLP(init, (env.input_dim, spec.hidden, spec.hidden, n_out)).to(device)
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device)) if name == "tb" else None
    optimizer, parameters = adam_with_log_Z(net, log_Z, lr=spec.lr, lr_log_Z=spec.lr_log_Z)
    generators = seed_generators(cfg.seed, 1, device)
    found = torch.zeros(n_seeds, 2**env.ndim, dtype=torch.bool, device=device)
    recent = torch.zeros(n_seeds, 500 * cfg.batch, dtype=torch.long, device=device)  # row numbers

    kept = run.keep(
        net=net,
        optimizer=optimizer,
        log_Z=log_Z,
        generators=generators,
        found=found,
        recent=recent,
    )

    def results() -> dict[str, object]:
        seen = min(cfg.steps * cfg.batch, recent.shape[1])
        p_terminal = terminating_distribution(dag, log_pf_of_all_states(net, env, dag))
        target = dag.target().cpu()
        return {
            "l1_mean_empirical": l1_mean_empirical(recent[:, :seen].cpu(), target).tolist(),
            "p_terminal": p_terminal.float().cpu() if n_states <= 1024 else torch.zeros(0),
            "target": target.float() if n_states <= 1024 else torch.zeros(0),
            "n_regions": 2**env.ndim,
            "ndim": env.ndim,
            "height": env.height,
        }

    for step in run.steps(cfg.steps, then=results):
        u = uniforms(generators, (env.max_length, cfg.batch))
        if encoded is not None:
            out = net(encoded)  # [S, N, out]
            policy = masked_log_softmax(out[..., : env.n_actions].detach(), dag.forward_mask)
            traj = sample_from_table(dag, policy, u)
            visited = visit(dag, whole(), out, traj, fm=name == "fm")
            objects = traj.last
        else:
            traj = sample_states(net, env, u)
            if cfg.reuse and isinstance(traj, CompiledTrajectories) and name != "fm":
                visited = visit_distinct(net, env, traj, flow=name != "tb")
            else:
                of_states = name.startswith(("fl-", "modified-"))
                visited = visit_states(net, env, traj, fm=name == "fm", reward_of_states=of_states)
            objects = env.index(traj.last)
        surrogate, logged = grid_loss(name, visited, traj, env.stop, log_Z, spec.lam, loss, clip)
        optimizer.zero_grad()
        surrogate.sum().backward()
        norms = clip_grad_norm_per_seed(parameters, spec.grad_clip(name))
        optimizer.step()

        kept.found = metrics.mark_regions(kept.found, regions[objects])
        metrics.remember(recent, objects, step)
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            l1 = metrics.l1_sum_exact(dag, log_pf_of_all_states(net, env, dag))
            run.log(
                step + 1,
                l1_sum_exact=l1.tolist(),
                regions=kept.found.sum(-1).tolist(),
                loss=logged.tolist(),
                grad_norm=norms.tolist(),
                log_Z=[] if log_Z is None else log_Z.tolist(),
            )


def train_bits(cfg: Config) -> None:
    """Experiment B: bit sequences, slots filled in any order."""
    loss = LOSSES[cfg.method]
    name = cfg.task.split("-", 1)[1]
    clip = SLOPE_CLIP if cfg.slope_clip is None else cfg.slope_clip
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    spec = BitSpec(cfg.n_bits, cfg.word_bits, cfg.n_modes, cfg.delta, net=cfg.net)
    modes = spec.modes(device)
    env = modes.env("slots")
    n_seeds = len(cfg.seed)
    policy = SlotPolicy(spec.net, seed_generators(cfg.seed, 0), env, spec.hidden).to(device)
    log_Z_parts = nn.Parameter(torch.zeros(n_seeds, 64, device=device))  # log Z is their sum
    optimizer, parameters = adam_with_log_Z(
        policy,
        log_Z_parts if name == "tb" else None,
        lr=spec.lr,
        lr_log_Z=spec.lr_log_Z,
        weight_decay=spec.weight_decay,
    )
    generators = seed_generators(cfg.seed, 1, device)
    found = torch.zeros(n_seeds, spec.n_modes, dtype=torch.bool, device=device)
    recent = torch.zeros(
        n_seeds, 1000 // cfg.batch * cfg.batch, env.length, dtype=torch.long, device=device
    )

    kept = run.keep(
        policy=policy,
        optimizer=optimizer,
        log_Z_parts=log_Z_parts,
        generators=generators,
        dropout=GlobalRandom(),
        found=found,
        recent=recent,
    )

    def results() -> dict[str, object]:
        policy.eval()
        rng = torch.Generator().manual_seed(0)  # the same backward samples for every loss
        finite = [
            all(bool(torch.isfinite(p[s]).all()) for p in policy.parameters())
            for s in range(n_seeds)
        ]
        seen = min(cfg.steps * cfg.batch, recent.shape[1])
        distinct = [distinct_fraction(recent[s, :seen]) for s in range(n_seeds)]
        return {
            "spearman": correlation_on_test_set(policy, env, modes, n_seeds, rng),
            "distinct": distinct,
            "collapsed": [bool(d < 0.05) or not f for d, f in zip(distinct, finite, strict=True)],
            "n_modes": spec.n_modes,
        }

    policy.train()  # dropout stays on while sampling, as in the authors' code
    for step in run.steps(cfg.steps, then=results):
        u = uniforms(generators, (env.length, cfg.batch))
        traj = sample(env, lambda s: policy(s)[0], u, epsilon=spec.epsilon)
        log_Z = log_Z_parts.sum(-1)
        surrogate, logged = bits_loss(name, policy, env, traj, log_Z, spec.lam, loss, clip)
        optimizer.zero_grad()
        surrogate.sum().backward()
        clip_grad_norm_per_seed(parameters, spec.grad_clip)
        optimizer.step()

        distances = modes.distances(traj.last)  # [S, B, M]
        kept.found = mark_modes(kept.found, distances, spec.delta)
        metrics.remember(recent, traj.last, step)
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            run.log(
                step + 1,
                modes=kept.found.sum(-1).tolist(),
                distance=distances.min(-1).values.mean(-1).tolist(),
                loss=logged.tolist(),
                log_Z=log_Z.tolist(),
            )


if __name__ == "__main__":
    run_cli(train, Config)
