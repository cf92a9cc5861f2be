"""Latency of one chunk at B = 1: `python -m papers.ofp.bench`, or as the last job of a scale.

One module for all: the network of experiment A or B for one seed with ordinary 2-D weights, one
thread, the encoder included on every side, repeats interleaved, medians after warm-up. The peer
is Diffusion Policy's sampler on the schedulers of diffusers, and 100-step flow matching.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common import files
from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.ofp.methods import METHODS, Sampler
from papers.ofp.networks import MLP, FiLMMLP, StateEncoder, unstack

ROUNDS, WARM_UP, REPEATS = 10, 3, 200  # per call: 10 rounds of 3 + 20


@dataclass
class Config:
    """Measure, then print a table; write rows where asked."""

    json: Path | None = None  # file for the numbers
    out: Path | None = None  # run directory (when a scale's stage runs this)
    device: str = "cpu"  # cpu or cuda


def networks() -> dict[str, tuple[nn.Module, int, int]]:
    """(one seed's network, obs_dim, D) of experiments A and B; latency is blind to the weights."""
    g = [torch.Generator().manual_seed(0)]
    n_b = 2 * (39 + 5)  # two frames of state and task one-hot
    b = FiLMMLP(StateEncoder(n_b, 64, g), 32, 64, g)
    return {
        "point-mass": (unstack(MLP(16, 4, g), 0), 4, 16),
        "metaworld": (unstack(b, 0), n_b, 32),
    }


def medians(calls: dict[str, Callable[[], object]], device: str) -> dict[str, float]:
    """Median milliseconds of each call: interleaved rounds, each warmed up by calls of its own."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            for repeat in range(WARM_UP + REPEATS // ROUNDS):
                begun = time.perf_counter()
                call()
                if device != "cpu":
                    torch.cuda.synchronize()
                if repeat >= WARM_UP:
                    times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: float(np.median(x)) for name, x in times.items()}


@torch.no_grad()
def measure(device: str) -> list[dict[str, Any]]:
    """Rows of metric "latency_ms" for each network, method and number of calls."""
    rows = []
    for task, (net, n_obs, n_z) in networks().items():
        net = net.to(device).eval()
        obs, z = torch.randn(1, n_obs, device=device), torch.randn(1, n_z, device=device)
        g = [torch.Generator().manual_seed(0)]

        def chunk(
            sampler: Sampler,
            n: int,
            net: nn.Module = net,
            z: torch.Tensor = z,
            obs: torch.Tensor = obs,
            g: list[torch.Generator] = g,
        ) -> torch.Tensor:
            return sampler(net, z, net.encode(obs), n, 0.0, g)

        calls: dict[str, Callable[[], object]] = {
            f"{name}@{n}": partial(chunk, policy.sampler, n)
            for name, policy in METHODS.items()
            for n in policy.timed
        }
        for key, value in medians(calls, device).items():
            name, n = key.split("@")
            rows.append(
                {
                    "method": name,
                    "task": task,
                    "seed": 0,
                    "metric": "latency_ms",
                    "value": value,
                    "nfe": int(n),
                    "t_w": 0.0,
                }
            )
    return rows


def main(cfg: Config) -> None:
    """Measure and report."""
    run = Run.open(cfg.out, cfg) if cfg.out is not None else None
    if run is not None and run.finished:
        return
    setup(cfg.device, 0)
    torch.set_num_threads(1)
    rows = measure(cfg.device)
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        ours = next(row["value"] for row in mine if row["method"] == "ofp" and row["nfe"] == 1)
        print(f"{task}: one chunk, B = 1, one thread, median of {REPEATS}")
        for row in mine:
            value = row["value"]
            print(
                f"  {row['method']:5}@{row['nfe']:<4} {value:9.3f} ms {value / ours:8.1f} x OFP@1"
            )
    if cfg.json is not None:
        files.write_json(cfg.json, {"rows": rows})
    if run is not None:
        run.finish({"latency": rows})


if __name__ == "__main__":
    run_cli(main, Config)
