"""A trained score model, for use outside of the experiments."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.run import Run
from common.score import hutchinson, jacobian
from common.stacked import rademacher, randn, seed_generators
from common.ve_sde import ode_log_likelihood, ode_sample
from papers.qcsgm import method
from papers.qcsgm.config import Config, members
from papers.qcsgm.networks import make_network, make_score
from papers.qcsgm.task import SETTINGS, Data, family

EXACT_UP_TO = 64  # dimensions in which Jacobians are computed whole


class Trained:
    """One member of a run: a seed and a weight of the regulariser.

    Attributes:
        dim: D, of points and scores (images: pixels in [0, 1), channel first).
        prior_std: width of the terminal density, which samples start from.
    """

    def __init__(self, score: method.Network, task: str) -> None:
        self._score, self._setting = score, SETTINGS[task]
        data = Data(task, torch.device("cpu"))
        self.dim = data.dim
        variance = float((data.points / max(data.levels, 1)).float().var(0).mean())
        self.prior_std = math.sqrt(self._setting.sigma_max**2 + variance)

    def score(self, x: Tensor, sigma: float) -> Tensor:
        """s(x, sigma). x [n, D] -> [n, D]."""
        with torch.no_grad():
            return self._score(x[None], torch.tensor(sigma))[0].detach()

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n samples by the probability-flow ODE and one denoising step. [n, D]."""
        low = self._setting.sigma_min
        start = self.prior_std * randn(seed_generators((seed,), 4), n, self.dim)
        end = ode_sample(self._score, start, low, self._setting.sigma_max, rtol=1e-3).x[0]
        return end + low**2 * self.score(end, low)

    def log_prob(self, x: Tensor, seed: int = 0) -> Tensor:
        """log p(x) in nats at the smallest noise, by the same ODE. x [n, D] -> [n].

        In many dimensions the divergence is estimated by one sign vector per row (of ``seed``).
        """
        low, high = self._setting.sigma_min, self._setting.sigma_max
        if self.dim == 2:
            log_p, _ = ode_log_likelihood(self._score, x[None], low, high, prior_std=self.prior_std)
        else:
            v = rademacher(seed_generators((seed,), 5), *x.shape)
            log_p, _ = ode_log_likelihood(
                self._score,
                x[None],
                low,
                high,
                prior_std=self.prior_std,
                divergence=hutchinson(v),
            )
        return log_p[0]

    def asymmetry(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """½‖J − Jᵀ‖² and its share ¼‖J − Jᵀ‖²/‖J‖² at every row. x [n, D] -> [n], [n].

        Raises:
            UserError: in more dimensions than a whole Jacobian is for.
        """
        if self.dim > EXACT_UP_TO:
            raise UserError(f"a Jacobian of {self.dim} dimensions is too large to compute whole")
        level = torch.tensor(sigma)
        J = jacobian(lambda at: self._score(at, level), x[None])[0].detach()
        return method.asymmetry(J), method.normalised_asymmetry(J)


def load(
    run_directory: str | PathLike[str], seed: int | None = None, lam: float | None = None
) -> Trained:
    """See ``papers.qcsgm.load``."""
    run = Run.load(Path(run_directory))
    final = run.final()
    if "net" not in final or "settings" not in final:
        raise UserError(f"{run_directory} holds no score model")
    cfg = run.config(Config)
    there = members(cfg)
    fitting = [
        place
        for place, (s, weight) in enumerate(there)
        if seed in (None, s) and (lam is None or math.isclose(lam, weight))
    ]
    if not fitting:
        known = ", ".join(f"({s}, {weight:g})" for s, weight in there)
        raise UserError(f"no member with seed {seed} and lam {lam}; there are (seed, lam): {known}")
    m = fitting[0]
    net = make_network(cfg, [there[m][0]], final["settings"] or None)
    stacked = family(cfg.task) != "images"
    weights = {k: w[m : m + 1] if stacked else w for k, w in final["net"].items()}
    net.load_state_dict(weights)
    return Trained(make_score(cfg, net.eval().requires_grad_(False)), cfg.task)
