"""An averaged model, for use outside of the experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.errors import UserError
from common.run import Run
from common.trained import seed_index
from papers.sewa.config import Config, sizes
from papers.sewa.task import TASKS
from papers.sewa.train import opened
from papers.sewa.weights import put


class Averaged:
    """A model whose weights are an average of snapshots.

    Attributes:
        model: in evaluation mode, on the CPU.
        chosen: numbers of the snapshots in it, the latest having the highest.
    """

    def __init__(self, work: Any, chosen: tuple[int, ...]) -> None:
        self._work, self.chosen = work, chosen
        self.model: nn.Module = work.model

    @torch.no_grad()
    def predict(self, *inputs: Any) -> NDArray[np.float32]:
        """The network's outputs: actions, or logits. Inputs as the task's examples are.

        Raises:
            UserError: for inputs that the network does not take.
        """
        tensors = [torch.as_tensor(np.asarray(x)) for x in inputs]
        try:
            found: NDArray[np.float32] = self.model(*tensors).numpy()
        except (RuntimeError, IndexError, TypeError) as error:
            shape = [tuple(x.shape[1:]) for x in self.examples(1)[:-1]]
            raise UserError(f"inputs are batches of {shape}: {str(error)[:80]}") from error
        return found

    def examples(self, n: int) -> tuple[torch.Tensor, ...]:
        """The first n of the test's: inputs, and what is wanted, last."""
        found: tuple[torch.Tensor, ...] = self._work.test.take(torch.arange(n))
        return found

    def measure(self) -> dict[str, float]:
        """The task's own measure: "score" is a return or an accuracy in percent."""
        found: dict[str, float] = self._work.measure(self.model)
        return found


def load(folder: Path, seed: int | None = None) -> Averaged:
    """See :func:`papers.sewa.load`."""
    run = Run.load(folder)
    cfg = run.config(Config)
    if cfg.task not in TASKS:
        raise UserError(f"the run in {folder} has trained no model")
    at = seed_index(folder, cfg.seed, seed)
    K = sizes(cfg)[0]
    found = opened(cfg, cfg.seed[at], torch.device("cpu"))
    put(found.work.model, run.final()["weights"][f"{cfg.seed[at]}-{K}"][0])
    found.work.settle(found.work.train)
    line = next(x for x in run.metrics() if x["seed"] == cfg.seed[at] and x["K"] == K)
    return Averaged(found.work, tuple(line["chosen"]))
