"""Paper scale, RNA strings of 14 letters (prepend/append): too many states for a table.

Each batch becomes a small DAG of its own (``local_dag``), on which the learners' losses work as
they are. One seed per run. Rewards are folded when a string is complete, once per string.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn import rna
from common.gfn.dag import EnumeratedDAG
from common.gfn.local_dag import strings_around
from common.gfn.nets import StackedMLP
from common.gfn.sampling import Trajectories, sample
from common.gfn.strings import StringEnv
from papers.rpe.methods import Learner

LENGTH, BETA = 14, 8.0
SEPARATION = 2  # modes differ in more than this many letters
MODE_QUANTILE = 0.9995  # of the fitness of uniform strings: from here on a string is a mode


class LargeStrings:
    """The task, its rollouts and its estimated metrics."""

    def __init__(
        self,
        task: str,
        device: torch.device,
        length: int = LENGTH,
        n_reference: int = 100_000,
    ) -> None:
        self.fitness = rna.Fitness(task.split("-")[0].upper(), length)
        self.env = StringEnv("prepend_append", length, 4, self._log_reward, device=device)
        self.n_actions, self.n_backward = self.env.n_actions, self.env.n_backward
        self.input_dim, self.max_length = self.env.input_dim, length
        self._n_reference = n_reference
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
        """A batch by the row numbers of its own DAG of visited states, children and parents."""
        n, length = traj.mask.shape[-2], traj.mask.shape[-1] + 1
        local = strings_around(
            self.env,
            traj.states.flatten(0, -2),
            self.env.log_reward(traj.last).flatten(),
            torch.arange(n, device=traj.last.device) * length + length - 1,
            children=True,
        )
        return local.along(traj), local.dag

    # -- metrics, estimated ----------------------------------------------------------------------

    def no_modes(self, n_seeds: int) -> Tensor:
        """The list of found modes, empty (of the one seed). [0, L]."""
        return torch.zeros(0, self.env.length, dtype=torch.long, device=self.env.device)

    def reference(self) -> tuple[float, float]:
        """(log R from which a string is a mode, estimate of E_p*[R]).

        The first from uniform strings, the second from annealed ones, as many.
        """
        if self._reference is None:
            rng = torch.Generator().manual_seed(0)
            strings = torch.randint(4, (self._n_reference, self.env.length), generator=rng)
            threshold = float(torch.quantile(self._log_reward(strings), MODE_QUANTILE))
            self._reference = threshold, self.expected_reward()
        return self._reference

    def expected_reward(self, temperatures: int = 20, moves: int = 5) -> float:
        """E_p*[R], p* proportional to R, from particles that are annealed from uniform to p*.

        Uniform strings alone would be far off: where a few strings hold the mass, none of them is
        among the strings drawn, and sum R^2 / sum R is the mean of a much flatter target. At each
        of the temperatures particles are resampled by their weights and moved by Metropolis steps
        of one letter. Folds about as many strings as ``n_reference``.
        """
        rng = torch.Generator().manual_seed(1)
        n, length = max(self._n_reference // (temperatures * moves), 100), self.env.length
        x = torch.randint(4, (n, length), generator=rng)
        log_r = self._log_reward(x)
        for t in range(1, temperatures + 1):
            kept = torch.multinomial(
                (log_r / temperatures).softmax(0), n, replacement=True, generator=rng
            )
            x, log_r = x[kept], log_r[kept]
            for _ in range(moves):
                place = torch.randint(length, (n, 1), generator=rng)
                other = x.scatter(1, place, torch.randint(4, (n, 1), generator=rng))
                log_other = self._log_reward(other)
                u = torch.rand(n, generator=rng, dtype=torch.float64)
                accepted = u.log() < (log_other - log_r) * t / temperatures
                x = torch.where(accepted.unsqueeze(1), other, x)
                log_r = torch.where(accepted, log_other, log_r)
        return float(log_r.exp().mean())

    @torch.no_grad()
    def evaluate(
        self,
        net: StackedMLP,
        learner: Learner,
        u: Tensor,
        found: Tensor,
        log_Z: Tensor,
        log_c: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mean reward, accuracy and modes of samples of the policy; the list of modes so far."""
        threshold, expected = self.reference()
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

    def results(self, net: StackedMLP, learner: Learner, log_c: Tensor) -> dict[str, object]:
        """Nothing beyond the curves."""
        return {}
