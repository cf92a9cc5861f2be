"""The methods that are compared: one frozen policy, and what of it or before it is tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods, Role
from papers.prompt_diffuser.method import Rule

Tunes = Literal["generator", "regressor", "soft", "numbers", "search", "adapter", "all", "nothing"]
Prompts = Literal["pool", "right", "wrong", "random", "generated", "none"]
GENERATORS = ("generator", "regressor")  # what is trained on prompts beforehand
GRADIENTS = (*GENERATORS, "soft", "numbers", "adapter", "all")  # what descends along gradients


@dataclass(frozen=True)
class Tuning(Method):
    """What is tuned on a test task.

    Attributes:
        tunes: a generator of prompts by diffusion or by regression, the tokens of one prompt, its
            numbers by gradients or by ranks, adapters, all weights of the policy, or nothing.
        rule: how the two losses' directions are combined.
        prompts: what stands before the history where nothing generates or tunes it: a demonstration
            of the pool; of an expert at this task, at the task that is least like it, at a training
            task drawn at random; what the generator makes that knows no test task; nothing.
        demonstrations: episodes of an expert to learn from; 0: the few that all have.
        longer: how many times more steps it may take.
        lr: Adam's rate.
    """

    tunes: Tunes = "nothing"
    rule: Rule = "guidance"
    prompts: Prompts = "pool"
    demonstrations: int = 0
    longer: int = 1
    lr: float = 1e-3


RATES = {  # Adam's, by method: the best of the tuning; the others take one of these
    "prompt_diffuser": 1e-3,
    "sum": 1e-3,
    "dt_only": 1e-3,
    "regression": 1e-3,
    "gradient": 1e-3,
    "prompt_tuning_dt": 1e-3,
    "soft": 1e-3,
    "adapter": 1e-3,
    "fine_tuning": 1e-3,
}


def _tuned(name: str, label: str, role: Role, tunes: Tunes, rule: Rule = "guidance") -> Tuning:
    return Tuning(name, label, role, tunes, rule, lr=RATES[name])


METHODS = Methods(
    _tuned("prompt_diffuser", "Prompt Diffuser", "method", "generator", "projection"),
    *(
        Tuning(*of, lr=RATES["prompt_diffuser"])
        for of in (
            ("svd", "PD, layer by layer", "variant", "generator", "svd"),
            ("conflict", "PD, conflicts only", "ablation", "generator", "conflict"),
        )
    ),
    _tuned("sum", "PD, sum", "ablation", "generator", "sum"),
    Tuning(
        *("dm_only", "PD, diffusion only", "ablation", "generator", "denoising"),
        lr=RATES["prompt_diffuser"],  # its score is chance at any rate: noise would choose
    ),
    _tuned("dt_only", "PD, guidance only", "ablation", "generator", "guidance"),
    Tuning("zero_shot", "PD, zero-shot", "ablation", prompts="generated"),
    _tuned("regression", "regression", "baseline", "regressor", "projection"),
    _tuned("gradient", "prompt by gradient", "baseline", "numbers"),
    _tuned("prompt_tuning_dt", "Prompt-Tuning DT", "baseline", "search"),
    _tuned("soft", "soft prompt", "baseline", "soft"),
    _tuned("adapter", "adapter", "baseline", "adapter"),
    _tuned("fine_tuning", "Prompt-DT-FT", "baseline", "all"),
    Tuning("prompt_dt", "Prompt-DT", "baseline"),
    Tuning("random_prompt", "a random task's prompt", "baseline", prompts="random"),
    Tuning("wrong_prompt", "the least alike task's prompt", "baseline", prompts="wrong"),
    Tuning("no_prompt", "no prompt", "baseline", prompts="none"),
    Tuning("right_prompt", "an expert's prompt", "reference", prompts="right"),
    Tuning(
        *("full", "full-data fine-tuning", "reference", "all"),
        prompts="right",
        demonstrations=50,
        longer=3,
        lr=RATES["fine_tuning"],
    ),
)

__all__ = ["GENERATORS", "GRADIENTS", "METHODS", "RATES", "Prompts", "Tunes", "Tuning"]
