"""Learning on a GPU: nothing is left on the CPU. (Solving is work for the CPU.)"""

from __future__ import annotations

from pathlib import Path

from papers.rl_cfr import eval as evaluation
from papers.rl_cfr import train
from tests.fake_cuda import same_on_both


def test_a_gpu_has_the_cpus_rows(tmp_path: Path) -> None:
    cfg = train.Config(
        **{"method": "rl_cfr", "task": "preflop43", "samples": 8, "samples_per_round": 4},
        **{"learning_steps": 4, "wide_samples": 4, "iterations": 20, "stacks": (5.0, 5.5)},
        **{"eval_deals": 2, "eval_security_deals": 1, "eval_deep": 1, "eval_iterations": 20},
        eval_tolerance=0.0,
    )
    same_on_both(train, evaluation, cfg, tmp_path)
