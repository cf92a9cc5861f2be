"""One test task with what is tuned on it: which prompts stand before the history, one update."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.control.decision_transformer import DecisionTransformer, PromptTokens
from common.control.sequences import Windows
from papers.prompt_diffuser.baselines import (
    DataPrompt,
    SoftPrompt,
    rank_direction,
    regressed,
    with_adapters,
)
from papers.prompt_diffuser.config import CANDIDATES, SIGMA, Config
from papers.prompt_diffuser.learning import Base, Steps, prompting, stream
from papers.prompt_diffuser.method import (
    Condition,
    combined,
    flat,
    generated,
    guidance_loss,
    prompt_of,
)
from papers.prompt_diffuser.methods import GENERATORS, METHODS, Tuning
from papers.prompt_diffuser.pretrain import prior_loss
from papers.prompt_diffuser.task import task_of

WINDOWS, PROMPTS, PRIOR, FIRST, EVALUATION = range(10, 15)  # uses of random numbers
Prompt = Windows | PromptTokens | None


@dataclass
class Learner:
    """A test task of a seed.

    Attributes:
        base: the frozen policy of the seed.
        cfg: of the run.
        goal: the test task.
        experts: an expert's few episodes, from which actions are learned.
        prompting: the episodes that prompts and conditions are drawn from; None: none are.
        policy: that acts: the frozen one, or a copy of which something is free.
        module: what is tuned; None: nothing.
        optimizer: Adam on it.
        windows: random numbers of the expert's windows, the same for all methods.
        prompts: of the prompts' segments and of the diffusion.
        prior: of the batches of L_DM, and of the search.
    """

    base: Base
    cfg: Config
    goal: float
    experts: Steps | None
    prompting: Steps | None
    policy: DecisionTransformer
    module: nn.Module | None
    optimizer: torch.optim.Optimizer | None
    windows: torch.Generator
    prompts: torch.Generator
    prior: torch.Generator

    @property
    def method(self) -> Tuning:
        """The method."""
        return METHODS[self.cfg.method]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is tuned."""
        of = [] if self.module is None else self.module.parameters()
        return [p for p in of if p.requires_grad]

    @property
    def one_prompt(self) -> bool:
        """Whether the same prompt, or none, stands before all episodes: nothing is drawn."""
        return isinstance(self.module, (SoftPrompt, DataPrompt)) or self.method.prompts == "none"

    @property
    def streams(self) -> tuple[torch.Generator, ...]:
        """Its random numbers."""
        return self.windows, self.prompts, self.prior


def make_learner(base: Base, cfg: Config, goal: float, experts: bool = True) -> Learner:
    """A test task before it is tuned on.

    Args:
        base: of the seed.
        cfg: of the run.
        goal: the test task.
        experts: whether the expert's episodes are needed, as they are in training.
    """
    method, pool = METHODS[cfg.method], task_of(cfg.task).pool
    seed = base.cfg.seed
    source = prompting(base, cfg, goal)
    policy = base.policy
    module: nn.Module | None = None
    if method.tunes in GENERATORS:
        kind = "diffusion" if method.tunes == "generator" else "regression"
        module = copy.deepcopy(base.generator(pool, kind)).requires_grad_(True)
    elif method.tunes == "adapter":
        module = policy = with_adapters(base.policy, seed)
    elif method.tunes == "all":
        module = policy = copy.deepcopy(base.policy).requires_grad_(True)
    elif method.tunes != "nothing":
        assert source is not None
        first, _ = source.prompts(stream(seed, FIRST, goal), 1, base.shape.steps, base.cfg.where)
        module = SoftPrompt(policy, first) if method.tunes == "soft" else DataPrompt(first)
    few = None
    if experts and module is not None:
        role = "full" if method.demonstrations else "few"
        few = base.episodes((goal,), "expert", role, method.demonstrations or cfg.few)
    free = [] if module is None else [p for p in module.parameters() if p.requires_grad]
    return Learner(
        *(base, cfg, goal, few, source, policy, module),
        torch.optim.Adam(free, cfg.rate) if free else None,
        *(stream(seed, use, goal) for use in (WINDOWS, PROMPTS, PRIOR)),
    )


# -- prompts --------------------------------------------------------------------------------------


def prompts_of(learner: Learner, batch: int, generator: torch.Generator) -> Prompt:
    """What stands before the history of a batch; carries gradients to what is tuned.

    The segments of the pool are drawn first, so that all methods draw the same ones.
    """
    base, method, module = learner.base, learner.method, learner.module
    if isinstance(module, (SoftPrompt, DataPrompt)):
        return module(batch)
    if method.prompts == "none":
        return None
    if learner.prompting is None:
        y = imagined(base, batch)
        net = base.generator(task_of(learner.cfg.task).pool, "diffusion")
    else:
        drawn = (generator, batch, base.shape.steps, base.cfg.where)
        windows, _ = learner.prompting.prompts(*drawn)
        if method.tunes not in GENERATORS:
            return windows
        y, net = base.condition(windows), module  # type: ignore[assignment]
    if method.tunes == "regressor":
        return prompt_of(base.shape, regressed(net, base.shape, y.vector), y)

    def fresh() -> Tensor:
        return torch.randn(batch, base.shape.dim, generator=generator).to(base.device)

    return prompt_of(base.shape, generated(net, base.noise, y.vector, fresh(), fresh), y)


def imagined(base: Base, batch: int) -> Condition:
    """y without any demonstration: the target return spread evenly, the first K* steps."""
    limit, target = base.world.suite.limit, base.scales.target / base.scales.returns
    steps = torch.arange(base.shape.steps, device=base.device)
    returns = target * (1.0 - steps / limit)
    return Condition(returns.expand(batch, -1), steps.expand(batch, -1), limit)


# -- updates --------------------------------------------------------------------------------------


def update(learner: Learner) -> dict[str, Tensor]:
    """One update on a test task; what is worth a line of the log."""
    if learner.method.tunes in GENERATORS:
        return update_generator(learner)
    assert learner.experts is not None and learner.optimizer is not None
    base, cfg = learner.base, learner.cfg
    windows = learner.experts.windows(learner.windows, cfg.batch, base.cfg.window)
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.method.tunes == "search":
        loss = search(learner, windows)
    else:
        prompt = prompts_of(learner, cfg.batch, learner.prompts)
        assert prompt is not None
        loss = guidance_loss(learner.policy, windows, prompt)
        loss.backward()
    learner.optimizer.step()
    return {"guidance": loss.detach()}


def update_generator(learner: Learner) -> dict[str, Tensor]:
    """Eq. 8: one step of Adam along the combined direction of both losses (Eqs. 4 and 6)."""
    base, cfg, method = learner.base, learner.cfg, learner.method
    assert learner.optimizer is not None and learner.module is not None
    parameters, said = learner.parameters, {}
    dm = dt = [torch.zeros_like(p) for p in parameters]
    if method.rule != "guidance":
        loss = _prior_loss(learner)
        dm, said["denoising"] = list(torch.autograd.grad(loss, parameters)), loss.detach()
    if method.rule != "denoising":
        assert learner.experts is not None
        windows = learner.experts.windows(learner.windows, cfg.batch, base.cfg.window)
        prompt = prompts_of(learner, cfg.batch, learner.prompts)
        assert prompt is not None
        loss = guidance_loss(learner.policy, windows, prompt)
        # a generator of one step does not use all parameters
        dt = list(torch.autograd.grad(loss, parameters, materialize_grads=True))
        said["guidance"] = loss.detach()
    if len(said) == 2:
        a, b = flat(dm).norm(), flat(dt).norm()
        said["cosine"] = flat(dm) @ flat(dt) / (a * b).clamp(min=1e-20)
        said["ratio"] = b / a.clamp(min=1e-20)
    for parameter, g in zip(parameters, combined(method.rule, dm, dt, cfg.lam), strict=True):
        parameter.grad = g
    learner.optimizer.step()
    return said


def _prior_loss(learner: Learner) -> Tensor:
    """L_DM (or the regression's loss) on prompts of the test task's pool."""
    base, pool = learner.base, learner.prompting
    assert pool is not None
    generator = learner.prior
    drawn = (generator, learner.cfg.prompt_batch, base.shape.steps, base.cfg.where)
    windows, rewards = pool.prompts(*drawn)
    x0 = base.shape.vector(windows.states, windows.actions, rewards)
    kind = "diffusion" if learner.method.tunes == "generator" else "regression"
    y = base.condition(windows).vector
    return prior_loss(kind, learner.module, base.noise, base.shape, x0, y, generator)  # type: ignore[arg-type]


@torch.no_grad()
def search(learner: Learner, windows: Windows) -> Tensor:
    """Prompt-Tuning DT: candidates around the prompt, ranked by L_DT on the same windows.

    The direction is put where Adam looks for a gradient; returns the mean loss of the candidates.
    """
    module, m, batch = learner.module, CANDIDATES, windows.returns.shape[0]
    assert isinstance(module, DataPrompt)
    unit = torch.randn(m, *module.numbers.shape[1:], generator=learner.prior)
    unit = unit.to(learner.base.device)
    repeated = Windows(
        *(
            getattr(windows, name).repeat(m, *[1] * (getattr(windows, name).dim() - 1))
            for name in ("returns", "states", "actions", "timesteps", "real")
        )
    )
    prompt = module(m * batch, SIGMA * unit.repeat_interleave(batch, 0))
    error = (learner.policy(repeated, prompt) - repeated.actions).square().mean(-1)
    real = repeated.real
    losses = (error * real).unflatten(0, (m, batch)).sum((1, 2))
    losses = losses / real.unflatten(0, (m, batch)).sum((1, 2))  # [m]
    module.numbers.grad = -rank_direction(unit, losses).unsqueeze(0)
    return losses.mean()
