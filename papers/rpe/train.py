"""One run: one learner (``--method``) on one task, all its seeds in stacked networks.

    python -m papers.rpe.train --method rpe --task rna1-dag --seed 0 1 2 --out DIR

``--method exact`` runs the tables of a task: policy evaluation, flow iteration, path factors.
The loop is the same for all learners: roll out, loss, Adam step, now and then the exact P_T.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import UserError, choose
from common.gfn import metrics
from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import terminating_distribution
from common.gfn.nets import StackedMLP, adam_with_log_Z
from common.gfn.rows import sample_rows
from common.gfn.sampling import Trajectories, sample_from_table, uniforms
from common.run import Run
from common.stacked import (
    clip_grad_norm_per_seed,
    generator_states,
    restore_generators,
    seed_generators,
)
from common.torch_utils import setup
from papers.rpe import method
from papers.rpe.large import LargeStrings
from papers.rpe.learners import (
    LEARNERS,
    Learner,
    dqn_loss,
    evaluate_rows,
    gflownet_loss,
    learned_policy,
    log_terminal_targets,
    rpe_loss,
)
from papers.rpe.tabular import exact_results
from papers.rpe.task import ENUMERATED, GRID, LARGE, TASKS, Sizes, accuracy, make_dag, modes

METHODS = (*LEARNERS, "exact")


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "rpe"  # learner, or "exact" for the tables
    task: str = "rna1-dag"  # see task.TASKS
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 1500  # Adam steps
    batch: int = 32  # trajectories per step and seed [the benchmark's code: 16 to 32]
    eval_every: int = 125  # steps between evaluations (exact P_T)
    eval_samples: int = 20  # samples of the current policy per step, for counting modes
    hidden: int = 256  # width of the two hidden layers [paper: 2048]
    lr: float = 1e-3  # Adam, the same for all learners [paper: one rate; the value is ours]
    lr_log_Z: float = 0.1  # of TB's log Z [the family's value]
    lam: float = 0.9  # lambda of SubTB [the family's value]
    grad_clip: float = 10.0  # largest gradient norm per seed, all learners
    target_rate: float = 0.25  # DQN: share of the online network per target update
    target_every: int = 3  # DQN: steps between target updates
    leaf_coefficient: float = 5.0  # DQN: weight of transitions to objects [released code]
    reference: int = 100_000  # strings of 14 letters: uniform strings that the metrics refer to
    sizes: Sizes = field(default_factory=Sizes)  # of the tasks (smaller for smoke)


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    if cfg.method == "exact":
        return tabulate(cfg)
    if cfg.task == GRID:
        raise UserError("the grid has path-dependent factors; only --method exact goes with it")
    if cfg.task in LARGE and len(cfg.seed) > 1:
        raise UserError(f"{cfg.task} takes one seed per run")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    learner = LEARNERS[cfg.method]
    large = LargeStrings(cfg.task, device) if cfg.task in LARGE else None
    if large is None:
        dag = make_dag(cfg.task, cfg.sizes).to(device)
        objects = torch.isfinite(dag.log_reward)
        log_g = method.log_path_factor(dag)
        allowed = method.nth_allowed(dag)
        is_mode = modes(dag)
        mode_number = torch.where(is_mode, is_mode.cumsum(0) - 1, -1)
        found = torch.zeros(len(cfg.seed), int(is_mode.sum()), dtype=torch.bool, device=device)
        space = dag
    else:
        found = large.no_modes()
        space = large

    n_outputs = learner.n_outputs(space.n_actions, space.n_backward)
    sizes = (space.input_dim, cfg.hidden, cfg.hidden, n_outputs)
    net = StackedMLP(seed_generators(cfg.seed, 0), sizes).to(device)
    target_net = deepcopy(net).requires_grad_(False)
    log_Z = nn.Parameter(torch.zeros(len(cfg.seed), device=device))
    optimizer, parameters = adam_with_log_Z(
        net, log_Z if learner.objective == "tb" else None, lr=cfg.lr, lr_log_Z=cfg.lr_log_Z
    )
    generators = seed_generators(cfg.seed, 1, device)
    eval_generators = seed_generators(cfg.seed, 2, device)
    log_c = torch.zeros(len(cfg.seed), dtype=torch.float64, device=device)  # RPE's unit of V
    reward_calls = 0

    def rollout() -> tuple[Trajectories, EnumeratedDAG]:
        """Trajectories of row numbers and the DAG that the rows are of.

        RPE: of the uniform policy, by design; the others: of their own.
        """
        u = uniforms(generators, (space.max_length, cfg.batch))
        if large is not None:
            return large.rollout(net, learner, u)

        def logits(rows: Tensor) -> Tensor:
            # softmax(Q/tau) of Munchausen DQN, softmax of the logits (tau = 1) of the others
            return evaluate_rows(net, dag, rows)[..., : dag.n_actions] * (1 - learner.alpha)

        if learner.kind == "rpe":
            return method.uniform_rollout(dag, allowed, u), dag
        return sample_rows(dag, logits, u), dag

    step = 0
    state = run.restore()
    if state:
        step, reward_calls = state["step"], state["reward_calls"]
        net.load_state_dict(state["net"])
        target_net.load_state_dict(state["target_net"])
        optimizer.load_state_dict(state["optimizer"])
        log_Z.data.copy_(state["log_Z"])
        log_c = state["log_c"].to(device)
        restore_generators(generators, state["generators"])
        restore_generators(eval_generators, state["eval_generators"])
        found = state["found"].to(device)
    elif learner.kind == "rpe":
        traj, there = rollout()
        reward_calls += cfg.batch
        log_c = method.log_scale(log_terminal_targets(there, traj, learner.rectified))
        net.layers[-1].bias.data.zero_()

    def checkpoint() -> dict[str, object]:
        return {
            "step": step,
            "reward_calls": reward_calls,
            "net": net.state_dict(),
            "target_net": target_net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "log_Z": log_Z.data,
            "log_c": log_c,
            "generators": generator_states(generators),
            "eval_generators": generator_states(eval_generators),
            "found": found,
        }

    while step < cfg.steps:
        traj, there = rollout()
        reward_calls += cfg.batch
        if learner.kind == "rpe":
            loss = rpe_loss(net, there, traj, learner, log_c)
        elif learner.kind == "dqn":
            loss = dqn_loss(net, target_net, there, traj, learner, cfg.leaf_coefficient)
        else:
            loss = gflownet_loss(net, there, traj, learner, log_Z, cfg.lam)
        optimizer.zero_grad()
        loss.sum().backward()
        clip_grad_norm_per_seed(parameters, cfg.grad_clip)
        optimizer.step()
        step += 1
        if learner.kind == "dqn" and step % cfg.target_every == 0:
            with torch.no_grad():
                for slow, fast in zip(target_net.parameters(), net.parameters(), strict=True):
                    slow.lerp_(fast, cfg.target_rate)

        if step % cfg.eval_every == 0 or step == cfg.steps:
            n = cfg.eval_samples * ((step - 1) % cfg.eval_every + 1)
            u = uniforms(eval_generators, (space.max_length, n))
            if large is None:
                log_pf, estimate = learned_policy(net, dag, learner, log_g)
                p_terminal = terminating_distribution(dag, log_pf)
                sampled = sample_from_table(dag, log_pf, u).last
                found = metrics.mark_regions(found, mode_number[sampled])
                reward = dag.log_reward.exp()
                values = {
                    "l1_sum_exact": (p_terminal - dag.target()).abs().sum(-1),
                    "accuracy": accuracy(p_terminal, reward),
                    "modes": found.sum(-1),
                    "log_Z_error": (_log_Z(learner, estimate, log_Z, log_c) - dag.log_Z).abs(),
                }
                if not learner.rectified:  # its V(s_0) estimates no Z
                    del values["log_Z_error"]
            else:
                values, found = large.evaluate(net, learner, u, found, cfg.reference)
            run.log(
                step,
                loss=loss.detach().tolist(),
                reward_calls=reward_calls,
                **{name: value.tolist() for name, value in values.items()},
            )
        if run.due(step):
            run.save(step, checkpoint())

    final: dict[str, object] = {}
    if large is None:
        final = {"p_objects": p_terminal[:, objects].float(), "n_modes": found.shape[1]}
        if learner.kind == "rpe" and learner.rectified:
            log_pf, _ = learned_policy(net, dag, learner, log_g, true_leaves=log_c)
            final["l1_true_leaves"] = metrics.l1_sum_exact(dag, log_pf)
        if cfg.task not in ("words", "rna1-var"):
            del final["p_objects"]
    run.finish({**checkpoint(), **final})


def _log_Z(learner: Learner, estimate: Tensor, log_Z: Tensor, log_c: Tensor) -> Tensor:
    """The learner's estimate of log Z. [S]."""
    if learner.objective == "tb":
        return log_Z.detach()
    return estimate + log_c if learner.kind == "rpe" else estimate


def tabulate(cfg: Config) -> None:
    """The exact results of an enumerated task."""
    if cfg.task not in (*ENUMERATED, GRID):
        raise UserError(f"{cfg.task} is too large for tables")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup(cfg.device, cfg.seed[0])
    run.restore()
    run.finish({"exact": exact_results(make_dag(cfg.task, cfg.sizes))})


if __name__ == "__main__":
    run_cli(train, Config)
