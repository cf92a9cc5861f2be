"""Networks, their slow copy and the optimiser: one gradient update of S stacked seeds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from common.stacked import clip_grad_norm_per_seed, rand, seed_generators
from papers.dfac.baselines import ScalarNet, td_loss
from papers.dfac.method import DFACConfig, QuantileNet, dfac_loss, mean_shape, per_quantile
from papers.dfac.method_c51 import CategoricalNet, c51_loss
from papers.dfac.methods import METHODS
from papers.dfac.networks import Batch, Generators, Psi, Sizes

Net = QuantileNet | CategoricalNet | ScalarNet


@dataclass(frozen=True)
class Learning:
    """How networks are updated.

    Attributes:
        loss: hyperparameters of the loss.
        optimizer: Adam (eps 1e-5), or RMSprop (alpha .99, eps 1e-5) as the released baselines.
        lr: learning rate.
        clip: largest gradient norm of a seed.
        target_every: updates between copies into the target network.
    """

    loss: DFACConfig = field(default_factory=DFACConfig)
    optimizer: Literal["adam", "rmsprop"] = "adam"
    lr: float = 5e-4
    clip: float = 10.0
    target_every: int = 200


def make_net(name: str, generators: Generators, sizes: Sizes) -> Net:
    """The networks of a method, a seed per generator."""
    method = METHODS[name]
    psi = Psi(method.mean, generators, sizes)
    if method.law == "scalar":
        return ScalarNet(psi, generators, sizes)
    if method.law == "categorical":
        return CategoricalNet(psi, generators, sizes)
    factorise = per_quantile if method.law == "per-quantile" else mean_shape
    return QuantileNet(psi, generators, sizes, factorise)


class Learner:
    """A method's networks and all that its updates depend on, as a thing that a run keeps."""

    def __init__(
        self, name: str, cfg: Learning, sizes: Sizes, seeds: Sequence[int], device: torch.device
    ) -> None:
        self.cfg = cfg
        self.net = make_net(name, seed_generators(seeds, 0), sizes).to(device)
        self.target = copy.deepcopy(self.net).requires_grad_(False)
        self.parameters = list(self.net.parameters())
        self.optimizer: torch.optim.Optimizer
        if cfg.optimizer == "adam":
            self.optimizer = torch.optim.Adam(self.parameters, cfg.lr, eps=1e-5, fused=True)
        else:
            self.optimizer = torch.optim.RMSprop(self.parameters, cfg.lr, alpha=0.99, eps=1e-5)
        self.omega = seed_generators(seeds, 1, device)  # quantile fractions of the losses
        self.updates = 0

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if isinstance(self.net, QuantileNet):
            draw = lambda *shape: rand(self.omega, *shape)  # noqa: E731
            return dfac_loss(self.net, self.target, batch, draw, self.cfg.loss)
        if isinstance(self.net, CategoricalNet):
            return c51_loss(self.net, self.target, batch, self.cfg.loss)
        return td_loss(self.net, self.target, batch, self.cfg.loss)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimiser; losses and values of the batch, [S] each."""
        loss, metrics = self._loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        norms = clip_grad_norm_per_seed(self.parameters, self.cfg.clip)
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.cfg.target_every == 0:
            self.target.load_state_dict(self.net.state_dict())
        return {**metrics, "gradient": norms}

    def state(self) -> dict[str, Any]:
        """Weights, optimiser, generators and the number of updates."""
        return {
            "net": self.net.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "omega": [g.get_state() for g in self.omega],
            "updates": self.updates,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to what ``state`` gave."""
        self.net.load_state_dict(state["net"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        for generator, saved in zip(self.omega, state["omega"], strict=True):
            generator.set_state(saved)
        self.updates = state["updates"]
