"""One run: one method, one task, all its seeds in stacked networks.

    python -m papers.rbs.train --method rbs-db --task g16 --seed 0 1 2 --out DIR

One loop serves all methods. They differ in what accompanies a forward trajectory in the replay
buffer (nothing, its relabelled self, a backward synthesis of its goal), in P_B (learned, uniform,
fixed) and in the loss.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.cli import run_cli
from common.gfn.sampling import Trajectories, sample, uniforms
from common.run import Run
from common.stacked import adam, clip_grad_norm_per_seed, seed_generators
from common.torch_utils import setup
from papers.rbs.baselines import exploration, greedy_log_policy, q_loss, relabel
from papers.rbs.config import Config
from papers.rbs.environments import MergedStrings
from papers.rbs.method import (
    AgeReplay,
    GoalConditioned,
    goal_loss,
    regulariser_weight,
    retrospective_backward_synthesis,
)
from papers.rbs.methods import METHODS, Learner
from papers.rbs.networks import GoalNetwork, backward_policy, distinct, outputs
from papers.rbs.success import distinct_backward_paths, distinct_orders, measure, source_log_flow
from papers.rbs.task import Task

TARGET_EVERY = 100  # DQN: updates between copies of the network into its target


def network(task: Task, seeds: Sequence[int]) -> GoalNetwork:
    """A task's network before training, one per seed."""
    return GoalNetwork(
        seed_generators(seeds, 0),
        n_places=task.n_places,
        n_values=task.n_values,
        n_actions=task.env.n_actions,
        n_backward=task.env.n_backward,
        trunk=task.spec.trunk,
        head=task.spec.head,
    ).to(task.device)


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    method = METHODS[cfg.method]
    device = setup(cfg.device, cfg.seed[0])
    task = Task(cfg.task, cfg.seed, device, log_C=method.log_C)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    net = network(task, cfg.seed)
    target = copy.deepcopy(net) if method.objective == "q" else None
    optimizer = adam([{"params": list(net.parameters())}], lr=cfg.lr or task.spec.lr)
    generators = seed_generators(cfg.seed, 1, device)
    n_streams = 1 if method.companion is None else 2
    replay = AgeReplay(
        len(cfg.seed),
        min(cfg.capacity, cfg.steps * cfg.rollouts),
        task.conditioned(task.eval_goals),
        n_streams=n_streams,
        by_age=method.by_age,
        device=device,
    )
    n_draws = cfg.replay * 2 // n_streams
    reached = torch.zeros(len(cfg.seed), device=device)  # successes of rollouts since the last line
    run.keep(
        **{"net": net, "target": target, "optimizer": optimizer, "generators": generators},
        **{"replay": replay, "reached": reached},
    )

    for step in run.steps(
        cfg.steps, then=lambda: results(task, net, method), drop=("replay", "optimizer", "target")
    ):
        # 1. goals, uniform over the objects
        goals = task.conditioned(task.draw(generators, cfg.rollouts))

        # 2. forward rollouts with P_F(.|s, y)
        u = uniforms(generators, (goals.max_length, cfg.rollouts))
        epsilon = exploration(step, cfg.steps) if method.greedy else task.spec.epsilon
        rollouts = rollout(net, goals, u, epsilon, greedy=method.greedy)
        reached += goals.success(rollouts.last).float().mean(-1)

        # 3. their companions: backward synthesis from the same goals, or hindsight
        if method.companion == "rbs":
            u = uniforms(generators, (goals.max_length, cfg.rollouts))
            synthesised = retrospective_backward_synthesis(
                goals, u, backward_policy(net, method.backward)
            )
            replay.add(rollouts, synthesised)
        elif method.companion == "her":
            allowed = task.may_relabel(goals.split(rollouts.last)[0])
            replay.add(rollouts, relabel(rollouts, goals, allowed))
        else:
            replay.add(rollouts)

        # 4. replay: both buffers at the same indices, by age
        items = replay.draw(uniforms(generators, (n_draws,)))
        batch = replay.get(items)

        # 5. the loss over all edges, and the regulariser
        weight = regulariser_weight(step, cfg.weight, cfg.weight_decay)
        loss, divergence = loss_of(method, task, net, target, goals, batch, weight, cfg.subtb)
        optimizer.zero_grad()
        loss.sum().backward()
        if task.spec.grad_clip < float("inf"):
            clip_grad_norm_per_seed(list(net.parameters()), task.spec.grad_clip)
        optimizer.step()
        replay.mark_used(items)
        if target is not None and (step + 1) % TARGET_EVERY == 0:
            target.load_state_dict(net.state_dict())

        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            since = step % cfg.eval_every + 1
            run.log(
                step + 1,
                **evaluation(task, net, method),
                rollout_success=(reached / since).tolist(),
                loss=loss.tolist(),
                divergence=divergence.tolist(),
            )
            reached.zero_()


def rollout(
    net: GoalNetwork, goals: GoalConditioned, u: Tensor, epsilon: float, *, greedy: bool
) -> Trajectories:
    """Forward trajectories towards the goals; ``epsilon`` of the actions are uniform."""

    def logits(states: Tensor) -> Tensor:
        out = net.forward_logits(states)
        return greedy_log_policy(out, goals.forward_mask(states)) if greedy else out

    return sample(goals, logits, u, epsilon=epsilon)


def loss_of(
    method: Learner,
    task: Task,
    net: GoalNetwork,
    target: GoalNetwork | None,
    goals: GoalConditioned,
    batch: Trajectories,
    weight: float,
    subtb: float,
) -> tuple[Tensor, Tensor]:
    """Loss and divergence of P_B from uniform, per seed. ([S], [S])."""
    if target is not None:
        states, at = distinct(batch.states, task.n_values)
        with torch.no_grad():
            q_target = target.forward_logits(states)
        loss = q_loss(goals, states, at, net.forward_logits(states), q_target, batch)
        return loss, torch.zeros_like(loss)
    out = outputs(net, batch, task.n_values, backward=method.backward)
    weight = weight if method.regularised else 0.0
    return goal_loss(goals, out, batch, objective=method.objective, weight=weight, lam=subtb)


def evaluation(task: Task, net: GoalNetwork, method: Learner) -> dict[str, list[float]]:
    """What is logged: success on all goals and on those held out, entropy of P_B."""
    measured = measure(task, net, greedy=method.greedy, backward=method.backward)
    entropy = measured.entropy if method.has_backward_policy else None
    return {
        "success": measured.success.mean(-1).tolist(),
        "unseen": task.unseen_success(measured.success).tolist(),
        "entropy": [] if entropy is None else entropy.tolist(),
    }


def results(task: Task, net: GoalNetwork, method: Learner) -> dict[str, Any]:
    """What is measured once at the end."""
    measured = measure(task, net, greedy=method.greedy, backward=method.backward)
    gap = source_log_flow(task, net) - task.spec.log_C
    final: dict[str, Any] = {
        "success": measured.success.cpu(),  # [S, G]
        "source_gap": torch.zeros(0) if method.greedy else gap.abs().mean(-1).cpu(),
    }
    if method.companion == "rbs":
        far = task.eval_goals[-1]  # the far corner of a grid
        final["paths"] = distinct_backward_paths(task, net, far, backward=method.backward)
    if isinstance(task.env, MergedStrings) and method.has_backward_policy:
        final["orders"] = distinct_orders(task, net, backward=method.backward)
    return final


if __name__ == "__main__":
    run_cli(train, Config)
