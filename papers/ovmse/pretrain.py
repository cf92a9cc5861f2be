"""Stage 2: a value function from a data set alone (CFCQL, MACQL), or a cloned behaviour.

One run of CFCQL serves every online method of its seed.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from common.cli import run_cli
from common.errors import UserError
from common.marl.episodes import Batch, EpisodeBuffer, batch_of
from common.run import Run
from common.torch_utils import setup
from papers.ovmse import data
from papers.ovmse.baselines import cloning_loss
from papers.ovmse.config import OfflineConfig
from papers.ovmse.learning import Conservative, adam, descend, update
from papers.ovmse.method import frozen
from papers.ovmse.methods import METHODS, Learner
from papers.ovmse.networks import Sizes, Values
from papers.ovmse.playing import evaluated
from papers.ovmse.task import clone_folder, data_task, make, stream
from papers.ovmse.trained import load_values


def conservative(
    cfg: OfflineConfig, method: Learner, env: Sizes, device: torch.device
) -> Conservative:
    """The conservative term of an offline method.

    Raises:
        UserError: if the moderate form finds no cloned behaviour.
    """
    clone = None
    if method.penalty == "moderate":
        clone = frozen(load_values(clone_folder(cfg), env, "bc", cfg.task, cfg.seed).to(device))
    generator = torch.Generator(device).manual_seed(stream("offline", cfg.seed))
    return Conservative(method.penalty, cfg.alpha, cfg.samples, cfg.temperature, clone, generator)


def clone_step(
    values: Values, optimizer: torch.optim.Optimizer, batch: Batch, cfg: OfflineConfig
) -> dict[str, float]:
    """One step of behaviour cloning: the agents' outputs are logits."""
    logits = values.utilities(batch)[:, :-1]
    loss = cloning_loss(logits, batch.avail[:, :-1], batch.actions, batch.filled)
    descend(loss, values, optimizer, cfg.clip)
    return {"loss": float(loss.detach())}


def train(cfg: OfflineConfig) -> None:
    """Train, or go on from the last checkpoint.

    Raises:
        UserError: if there are no data, or the method is of another stage.
    """
    task, method = data_task(cfg.task), METHODS[cfg.method]
    if method.stage != "offline":
        raise UserError(f"{method.name} doesn't learn offline; see papers.ovmse.methods")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    seed = stream("offline", cfg.seed)
    device = setup(cfg.device, seed)
    env = make(task, cfg.envs)
    buffer = EpisodeBuffer(10**9)
    buffer.add(data.load(cfg))
    values = Values(env, cfg, torch.Generator().manual_seed(seed)).to(device)
    target, optimizer = copy.deepcopy(values), adam(values, cfg.lr)
    term = conservative(cfg, method, env, device)
    kept = run.keep(
        **{"values": values, "target": target, "optimizer": optimizer},
        generator=np.random.default_rng(seed),
        draws=term.generator,
        **{"best": np.inf, "since": 0, "recent": 0.0},
    )
    drop = ("target", "optimizer", "generator", "draws")
    for step in run.steps(cfg.updates, drop=drop):
        batch = batch_of(buffer.draw(cfg.batch, kept.generator), device)
        if method.clones:
            metrics = clone_step(values, optimizer, batch, cfg)
        else:
            metrics = update(values, target, optimizer, batch, cfg, task.reward_scale, term=term)
        done = step + 1
        if done % cfg.copy_every == 0:
            target.load_state_dict(values.state_dict())
        if done % cfg.evaluate_every == 0 or done == cfg.updates:
            found = evaluated(values, env, cfg.episodes, "evaluation", cfg.seed)
            run.log(done, **metrics, **found)

        # cloning ends when its loss does not fall any more
        kept.recent += metrics["loss"]
        if method.clones and done % cfg.check_every == 0:
            kept.since = 0 if kept.recent < kept.best else kept.since + 1
            kept.best, kept.recent = min(kept.best, kept.recent), 0.0
            if kept.since >= cfg.patience:
                found = evaluated(values, env, cfg.episodes, "evaluation", cfg.seed)
                run.log(done, **metrics, **found)
                run.finish(**dict.fromkeys(drop))
                break


if __name__ == "__main__":
    run_cli(train, OfflineConfig)
