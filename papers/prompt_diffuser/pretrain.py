"""One policy, then its generators of prompts: what every method of a seed begins with.

The policy is Prompt-DT on an expert's episodes of the training tasks, each window after a prompt of
the same task. The generators learn prompts of a pool's quality of the same tasks, without the
policy: by diffusion (L_DM) or, for the control, by regression.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.cli import run_cli
from common.control.decision_transformer import DecisionTransformer, adamw
from common.control.diffusion import Schedule
from common.run import Run
from common.torch_utils import GlobalRandom, setup
from papers.prompt_diffuser.baselines import regression_loss
from papers.prompt_diffuser.config import PolicyConfig, check_policy
from papers.prompt_diffuser.learning import (
    Scales,
    Steps,
    make_generators,
    make_policy,
    on_device,
    shape_of,
    stream,
)
from papers.prompt_diffuser.method import (
    Condition,
    NoisePredictor,
    PromptShape,
    denoising_loss,
    guidance_loss,
    schedule,
)
from papers.prompt_diffuser.task import WORLDS

LOG_EVERY = 100
PRIOR = 1  # use of a stream of random numbers: prompts; 0 is the policy's


def prompts_and_conditions(
    shape: PromptShape,
    pool: Steps,
    cfg: PolicyConfig,
    generator: torch.Generator,
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Eqs. 2 and 3: x0 [B, D] and y [B, 2 K*] of segments of the pool, tasks drawn uniformly."""
    windows, rewards = pool.prompts(generator, batch, cfg.prompt, cfg.where)
    y = Condition(windows.returns, windows.timesteps, WORLDS[cfg.task].suite.limit)
    return shape.vector(windows.states, windows.actions, rewards), y.vector


def prior_loss(
    kind: str,
    net: NoisePredictor,
    noise: Schedule,
    shape: PromptShape,
    x0: Tensor,
    y: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Eq. 4 with fresh steps and noise, or the regression control's loss."""
    if kind == "regression":
        return regression_loss(net, shape, x0, y)
    i = torch.randint(len(noise), (len(x0),), generator=generator).to(x0.device)
    epsilon = torch.randn(x0.shape, generator=generator).to(x0.device)
    return denoising_loss(net, noise, x0, y, i, epsilon)


def teach(
    policy: DecisionTransformer,
    optimizer: torch.optim.Optimizer,
    experts: Steps,
    cfg: PolicyConfig,
    generator: torch.Generator,
) -> Tensor:
    """Eq. 1: one update of the policy on windows after prompts of their tasks."""
    of = torch.randint(experts.n_tasks, (cfg.batch,), generator=generator)
    windows = experts.windows(generator, cfg.batch, cfg.window, of)
    prompt, _ = experts.prompts(generator, cfg.batch, cfg.prompt, cfg.where, of)
    loss = guidance_loss(policy, windows, prompt)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), cfg.clip)
    optimizer.step()
    return loss.detach()


def load_experts(cfg: PolicyConfig, device: torch.device) -> tuple[Scales, dict[str, Steps]]:
    """Scales, and the training tasks' episodes of each quality that is needed."""
    world = WORLDS[cfg.task]
    count = cfg.demonstrations or world.demonstrations
    qualities = dict.fromkeys(("expert", *cfg.pools))
    found = {q: world.suite.episodes(world.train, q, "train", count) for q in qualities}
    scales = Scales.fit(world, found["expert"])
    return scales, {q: on_device(of, scales, device) for q, of in found.items()}


def train(cfg: PolicyConfig) -> None:
    """Train, or go on from the last checkpoint."""
    check_policy(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    policy, shape, noise = make_policy(cfg), shape_of(cfg), schedule(cfg.diffusion_steps)
    policy = policy.to(device).train()
    generators = {name: net.to(device) for name, net in make_generators(cfg).items()}
    optimizer = adamw(policy.parameters(), cfg.lr, cfg.weight_decay)
    optimizers = {
        name: torch.optim.Adam(net.parameters(), cfg.prior_lr) for name, net in generators.items()
    }
    drawing = stream(cfg.seed, 0)
    of_prior = {name: stream(cfg.seed, PRIOR) for name in generators}
    scales, episodes = load_experts(cfg, device)
    run.keep(
        **{"policy": policy, "optimizer": optimizer, "drawing": drawing},
        **{"generators": generators, "optimizers": optimizers, "of_prior": of_prior},
        **{"scales": scales.state(), "dropout": GlobalRandom()},
    )
    names = list(generators)
    dropped = ("optimizer", "optimizers", "of_prior", "dropout")

    for step in run.steps(cfg.steps + len(names) * cfg.prior_steps, drop=dropped):
        if step < cfg.steps:  # 1. the policy
            for group in optimizer.param_groups:
                group["lr"] = cfg.lr * min(1.0, (step + 1) / max(1, cfg.warm_up))
            loss = teach(policy, optimizer, episodes["expert"], cfg, drawing)
            name = "policy"
        else:  # 2. each generator in turn
            name = names[(step - cfg.steps) // cfg.prior_steps]
            pool, kind = name.split("-")
            own, net = of_prior[name], generators[name]
            x0, y = prompts_and_conditions(shape, episodes[pool], cfg, own, cfg.prior_batch)
            loss = prior_loss(kind, net, noise, shape, x0, y, own)
            optimizers[name].zero_grad(set_to_none=True)
            loss.backward()
            optimizers[name].step()
        if (step + 1) % LOG_EVERY == 0:
            run.log(step + 1, **{f"loss_{name}": loss.item()})


if __name__ == "__main__":
    run_cli(train, PolicyConfig)
