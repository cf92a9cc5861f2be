"""Paper scale, RNA strings of 14 letters (prepend/append): too many states for a table.

Each batch becomes a small DAG of its own (``local_dag``), on which the learners' losses work as
they are. One seed per run. Rewards are folded when a string is complete, once per string.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn import rna
from common.gfn.dag import EnumeratedDAG
from common.gfn.nets import StackedMLP
from common.gfn.sampling import Trajectories, sample
from common.gfn.strings import StringEnv
from papers.rpe.learners import Learner

LENGTH, BETA = 14, 8.0
SEPARATION = 2  # modes differ in more than this many letters
MODE_QUANTILE = 0.9995  # of the fitness of uniform strings: from here on a string is a mode


class LargeStrings:
    """The task, its rollouts and its estimated metrics."""

    def __init__(self, task: str, device: torch.device, length: int = LENGTH) -> None:
        self.fitness = rna.Fitness(task.split("-")[0].upper(), length)
        self.env = StringEnv("prepend_append", length, 4, self._log_reward, device=device)
        self.n_actions, self.n_backward = self.env.n_actions, self.env.n_backward
        self.input_dim, self.max_length = self.env.input_dim, length
        self._reference: tuple[float, float] | None = None

    def _log_reward(self, strings: Tensor) -> Tensor:
        values = self.fitness.of_letters(strings.cpu())
        return rna.log_reward(values, BETA, top=1.0).to(strings.device)

    def policy_logits(self, net: StackedMLP, learner: Learner, states: Tensor) -> Tensor:
        """Logits of what a learner has learned. [1, B, L] -> [1, B, A].

        RPE: v of the children, since F(s')/B(s') is proportional to V(s') per edge.
        """
        env = self.env
        if learner.kind != "rpe":
            out = net.from_active_inputs(env.active_inputs(states))
            return out[..., : env.n_actions] * (1 - learner.alpha)
        actions = torch.arange(env.n_actions, device=states.device)
        after = env.step(
            states.unsqueeze(-2).expand(*states.shape[:-1], env.n_actions, -1),
            actions.expand(*states.shape[:-1], -1),
        )
        return net.from_active_inputs(env.active_inputs(after))[..., 0]

    def rollout(
        self, net: StackedMLP, learner: Learner, u: Tensor
    ) -> tuple[Trajectories, EnumeratedDAG]:
        """A batch as row numbers of its own DAG; RPE rolls the uniform policy out."""

        def logits(states: Tensor) -> Tensor:
            if learner.kind == "rpe":
                return torch.zeros(*states.shape[:-1], self.n_actions, device=states.device)
            return self.policy_logits(net, learner, states)

        return self.local_dag(sample(self.env, logits, u))

    def local_dag(self, traj: Trajectories) -> tuple[Trajectories, EnumeratedDAG]:
        """The DAG of the visited states, their children and their parents.

        Counts of edges are those of the whole DAG. Edges that leave the batch's neighbourhood
        lead nowhere (-1, or row 0 for parents); no loss looks at them. Objects that were not
        visited have the placeholder log R = 0, and their reward is not asked for.
        """
        env = self.env
        visited = traj.states.flatten(0, -2)
        actions = torch.arange(env.n_actions, device=visited.device)
        backward = torch.arange(env.n_backward, device=visited.device)
        inner = visited[env.forward_mask(visited).any(-1)]
        children = env.step(
            inner.unsqueeze(1).expand(-1, env.n_actions, -1), actions.expand(len(inner), -1)
        )
        grown = visited[env.backward_mask(visited).any(-1)]
        parents = env.backward_step(
            grown.unsqueeze(1).expand(-1, env.n_backward, -1), backward.expand(len(grown), -1)
        )
        needed = torch.cat([visited, children.flatten(0, 1), parents.flatten(0, 1)])
        number, inverse = torch.unique(env.index(needed), return_inverse=True)
        states = torch.empty(len(number), env.length, dtype=torch.long, device=visited.device)
        states[inverse] = needed  # equal strings write the same

        def local(other: Tensor, exists: Tensor, absent: int) -> Tensor:
            wanted = env.index(other)
            place = torch.searchsorted(number, wanted).clamp(max=len(number) - 1)
            return torch.where(exists & (number[place] == wanted), place, absent)

        forward_mask, backward_mask = env.forward_mask(states), env.backward_mask(states)
        n = len(states)
        after = env.step(states.unsqueeze(1).expand(-1, env.n_actions, -1), actions.expand(n, -1))
        before = env.backward_step(
            states.unsqueeze(1).expand(-1, env.n_backward, -1), backward.expand(n, -1)
        )
        parent_rows = local(before, backward_mask, 0).masked_fill(~backward_mask, -1)
        complete = ~forward_mask.any(-1)
        log_reward = torch.full((n,), -torch.inf, dtype=torch.float64, device=visited.device)
        log_reward[complete] = 0.0
        rows = torch.searchsorted(number, env.index(traj.states))
        log_reward[rows[..., -1].flatten()] = env.log_reward(traj.last).flatten()
        dag = EnumeratedDAG(
            children=local(after, forward_mask, -1),
            forward_mask=forward_mask,
            parents=parent_rows,
            parent_actions=env.forward_action(
                states.unsqueeze(1).expand(-1, env.n_backward, -1), backward.expand(n, -1)
            ).masked_fill(~backward_mask, 0),
            backward_index=env.backward_action(actions).expand(n, -1).contiguous(),
            log_reward=log_reward,
            level=env.n_filled(states),
            source=0,
            active=env.active_inputs(states),
            input_dim=env.input_dim,
        )
        local_traj = Trajectories(
            states=rows, actions=traj.actions, mask=traj.mask, last=rows[..., -1]
        )
        return local_traj, dag

    # -- metrics, estimated ----------------------------------------------------------------------

    def no_modes(self) -> Tensor:
        """The list of found modes, empty. [0, L]."""
        return torch.zeros(0, self.env.length, dtype=torch.long, device=self.env.device)

    def reference(self, n: int) -> tuple[float, float]:
        """(log R from which a string is a mode, estimate of E_p*[R]) from n uniform strings."""
        if self._reference is None:
            rng = torch.Generator().manual_seed(0)
            strings = torch.randint(4, (n, self.env.length), generator=rng)
            log_reward = self._log_reward(strings)
            reward = log_reward.exp()
            self._reference = (
                float(torch.quantile(log_reward, MODE_QUANTILE)),
                float(reward.square().sum() / reward.sum()),
            )
        return self._reference

    @torch.no_grad()
    def evaluate(
        self, net: StackedMLP, learner: Learner, u: Tensor, found: Tensor, n_reference: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mean reward, accuracy and modes of samples of the policy; the list of modes so far."""
        threshold, expected = self.reference(n_reference)
        sampled = sample(self.env, lambda s: self.policy_logits(net, learner, s), u).last[0]
        log_reward = self._log_reward(sampled)
        for string in torch.unique(sampled[log_reward >= threshold], dim=0):
            if not len(found) or bool(((found != string).sum(-1) > SEPARATION).all()):
                found = torch.cat([found, string.unsqueeze(0)])
        mean = log_reward.exp().mean()
        values = {
            "mean_reward": mean,
            "accuracy": 100 * (mean / expected).clamp(max=1),
            "modes": torch.tensor(float(len(found))),
        }
        return {name: value.view(1) for name, value in values.items()}, found
