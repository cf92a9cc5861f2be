"""stable-baselines3's SAC on the same environment, budget and evaluation: a check on our baseline.

Needs the extra "peers". It keeps no checkpoints: a run that is stopped begins anew.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.cli import run_cli
from common.errors import UserError
from common.run import Run
from common.torch_utils import setup
from papers.meow.baselines import SACConfig
from papers.meow.config import Config, settings_of
from papers.meow.task import MujocoReturns
from papers.meow.train import LARGEST_BUFFER


def train(cfg: Config) -> None:
    """Train one seed, evaluating on the way as train.py does."""
    settings = settings_of(cfg)
    if len(cfg.seed) != 1 or not settings.evaluate_every:
        raise UserError("stable-baselines3's SAC runs one seed on a MuJoCo environment")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    import gymnasium
    from stable_baselines3 import SAC

    device = setup(cfg.device, cfg.seed[0])
    model = SAC(
        "MlpPolicy",
        gymnasium.make(cfg.task),
        learning_rate=cfg.lr or SACConfig.lr,
        buffer_size=min(settings.steps, LARGEST_BUFFER),
        learning_starts=settings.learning_starts,
        batch_size=cfg.batch,
        tau=settings.tau,
        gamma=settings.gamma,
        seed=cfg.seed[0],
        device=device,
    )
    evaluate = MujocoReturns(cfg.task, 1, settings.episodes)

    def act(obs: NDArray[np.float32]) -> NDArray[np.float32]:
        action, _ = model.predict(obs[0], deterministic=True)
        return model.policy.scale_action(action)[None]

    for step in run.steps(settings.steps, every=settings.steps):  # its state cannot be saved
        if (step + 1) % settings.evaluate_every == 0:
            model.learn(settings.evaluate_every, reset_num_timesteps=False)
            run.log(step + 1, returns=evaluate(act).mean(1))


if __name__ == "__main__":
    run_cli(train, Config)
