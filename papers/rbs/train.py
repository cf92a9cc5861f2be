"""One run: one method, one task, all its seeds in stacked networks.

    python -m papers.rbs.train --method rbs-db --task g16 --seed 0 1 2 --out DIR

One loop serves all methods. They differ in what accompanies a forward trajectory in the replay
buffer (nothing, its relabelled self, a backward synthesis of its goal), in P_B (learned or
uniform) and in the loss.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.cli import run_cli
from common.errors import choose
from common.gfn.sampling import sample, uniforms
from common.run import Run
from common.stacked import (
    adam,
    clip_grad_norm_per_seed,
    generator_states,
    restore_generators,
    seed_generators,
)
from common.torch_utils import setup
from papers.rbs.baselines import exploration, greedy_log_policy, q_loss, relabel
from papers.rbs.method import (
    AgeReplay,
    goal_loss,
    regulariser_weight,
    retrospective_backward_synthesis,
)
from papers.rbs.networks import GoalNetwork, distinct, outputs
from papers.rbs.success import Success, distinct_backward_paths, measure, source_log_flow
from papers.rbs.task import Task


@dataclass(frozen=True)
class Method:
    """What tells the methods apart."""

    companion: str | None = None  # of each forward trajectory: "rbs", "her" or none
    objective: str = "db"  # db, stb (SubTB) or q (DQN)
    learned_pb: bool = True  # else uniform P_B
    regularised: bool = False  # KL(U || P_B), Section "backward-policy regularisation"


METHODS = {
    "rbs-db": Method("rbs", regularised=True),
    "her-db": Method("her"),
    "gc-db": Method(),
    "rbs-noreg": Method("rbs"),
    "rbs-uniform": Method("rbs", learned_pb=False),
    "rbs-subtb": Method("rbs", "stb", regularised=True),
    "dqn-her": Method("her", "q"),
}
TARGET_EVERY = 100  # DQN: updates between copies of the network into its target


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "rbs-db"  # one of METHODS
    task: str = "g16"  # one of task.SPECS, e.g. g16, g32, g16-unseen, b20, g128-paper
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2000  # updates [code: 20k on grids, up to 500k on bits]
    rollouts: int = 16  # forward trajectories (and syntheses) per update [code]
    replay: int = 64  # pairs per update; without a companion twice as many trajectories [code: 256]
    capacity: int = 1_000_000  # trajectories that the replay buffer holds [code]
    by_age: bool = True  # lower the priority of used items [paper; code: on bits only]
    lr: float | None = None  # Adam (default: the task's)
    log_c: float | None = None  # log C of the intensified reward (default: the task's)
    weight: float = 0.1  # lambda of the regulariser at the start (our choice, see README)
    weight_decay: float = 0.999  # its factor per update [code]
    subtb: float = 0.9  # lambda of SubTB
    eval_every: int = 50  # updates between exact evaluations


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    choose("method", cfg.method, tuple(METHODS))
    method = METHODS[cfg.method]
    device = setup(cfg.device, cfg.seed[0])
    task = Task(cfg.task, cfg.seed, device, log_C=cfg.log_c)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    spec, env = task.spec, task.env
    net = GoalNetwork(
        seed_generators(cfg.seed, 0),
        n_places=task.n_places,
        n_values=task.n_values,
        n_actions=env.n_actions,
        n_backward=env.n_backward,
        trunk=spec.trunk,
        head=spec.head,
    ).to(device)
    target = copy.deepcopy(net) if method.objective == "q" else None
    lr = spec.lr if cfg.lr is None else cfg.lr
    optimizer = adam([{"params": list(net.parameters())}], lr=lr)
    generators = seed_generators(cfg.seed, 1, device)
    replay = AgeReplay(
        len(cfg.seed),
        min(cfg.capacity, cfg.steps * cfg.rollouts),
        task.conditioned(task.eval_goals),
        n_streams=1 if method.companion is None else 2,
        by_age=cfg.by_age,
        device=device,
    )
    n_draws = cfg.replay * (2 if method.companion is None else 1)
    greedy = method.objective == "q"
    reached = torch.zeros(len(cfg.seed), device=device)  # successes of rollouts since the last line

    measured: Success | None = None

    step = 0
    state = run.restore()
    if state:
        step = state["step"]
        net.load_state_dict(state["net"])
        if target is not None:
            target.load_state_dict(state["target"])
        optimizer.load_state_dict(state["optimizer"])
        restore_generators(generators, state["generators"])
        replay.load_state_dict(state["replay"])
        reached = state["reached"].to(device)

    def checkpoint() -> dict[str, object]:
        return {
            "step": step,
            "net": net.state_dict(),
            "target": None if target is None else target.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generators": generator_states(generators),
            "replay": replay.state_dict(),
            "reached": reached,
        }

    while step < cfg.steps:
        # 1. goals, uniform over the objects
        goals = task.draw(generators, cfg.rollouts)
        conditioned = task.conditioned(goals)

        # 2. forward rollouts with P_F(.|s, y)
        def forward_logits(states: Tensor) -> Tensor:
            out = net.forward_logits(states)
            return greedy_log_policy(out, conditioned.forward_mask(states)) if greedy else out  # noqa: B023

        u = uniforms(generators, (env.max_length, cfg.rollouts))
        epsilon = exploration(step, cfg.steps) if greedy else spec.epsilon
        streams = [sample(conditioned, forward_logits, u, epsilon=epsilon)]
        reached += conditioned.success(streams[0].last).float().mean(-1)

        # 3. their companions: backward synthesis from the same goals, or hindsight
        if method.companion == "rbs":
            u = uniforms(generators, (env.max_length, cfg.rollouts))
            backward = net.backward_logits if method.learned_pb else None
            streams.append(retrospective_backward_synthesis(conditioned, u, backward))
        elif method.companion == "her":
            allowed = task.may_relabel(conditioned.split(streams[0].last)[0])
            streams.append(relabel(streams[0], conditioned, allowed))
        replay.add(*streams)

        # 4. replay: both buffers at the same indices, by age
        items = replay.draw(uniforms(generators, (n_draws,)))
        batch = replay.get(items)

        # 5. the loss over all edges, and the regulariser
        if target is not None:
            states, at = distinct(batch.states, task.n_values)
            with torch.no_grad():
                q_target = target.forward_logits(states)
            q = net.forward_logits(states)
            loss = q_loss(conditioned, states, at, q, q_target, batch)
            divergence = torch.zeros_like(loss)
        else:
            out = outputs(net, batch, task.n_values, learned_pb=method.learned_pb)
            loss, divergence = goal_loss(
                conditioned,
                out,
                batch,
                objective=method.objective,
                weight=regulariser_weight(step, cfg.weight, cfg.weight_decay)
                if method.regularised
                else 0.0,
                lam=cfg.subtb,
            )
        optimizer.zero_grad()
        loss.sum().backward()
        if spec.grad_clip < float("inf"):
            clip_grad_norm_per_seed(list(net.parameters()), spec.grad_clip)
        optimizer.step()
        replay.mark_used(items)

        step += 1
        if target is not None and step % TARGET_EVERY == 0:
            target.load_state_dict(net.state_dict())
        if step % cfg.eval_every == 0 or step == cfg.steps:
            measured = measure(task, net, greedy=greedy, learned_pb=method.learned_pb)
            since = (step - 1) % cfg.eval_every + 1
            run.log(
                step,
                success=measured.success.mean(-1).tolist(),
                unseen=task.unseen_success(measured.success).tolist(),
                entropy=[] if measured.entropy is None or greedy else measured.entropy.tolist(),
                rollout_success=(reached / since).tolist(),
                loss=loss.tolist(),
                divergence=divergence.tolist(),
            )
            reached.zero_()
        if run.due(step):
            run.save(step, checkpoint())

    if measured is None:  # resumed behind the last update
        measured = measure(task, net, greedy=greedy, learned_pb=method.learned_pb)
    gap = source_log_flow(task, net) - spec.log_C
    final: dict[str, object] = {
        "net": net.state_dict(),
        "success": measured.success.cpu(),  # [S, G]
        "source_gap": gap.abs().mean(-1).cpu() if not greedy else torch.zeros(0),
    }
    if method.companion == "rbs":
        far = task.eval_goals[-1]  # the far corner of a grid
        final["paths"] = distinct_backward_paths(task, net, far, learned_pb=method.learned_pb)
    run.finish(final)


if __name__ == "__main__":
    run_cli(train, Config)
