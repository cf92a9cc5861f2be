"""One run: one loss (``--method``), one experiment (``--task``), all its seeds in stacked networks.

    python -m papers.gfn_losses.train --method linex1 --task grid-tb --seed 0 1 2 --out DIR

Tasks: grid-* and control-* (HyperGrid), bits-* (bit sequences), mols-stb (molecules), theory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import UserError, choose
from common.gfn import metrics
from common.gfn import objectives as flows
from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import terminating_distribution
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import (
    StackedMLP,
    StackedTransformer,
    adam,
    clip_grad_norm_per_seed,
    seed_generators,
)
from common.gfn.sampling import (
    Trajectories,
    masked_log_softmax,
    sample,
    sample_backward,
    sample_from_table,
    uniforms,
)
from common.gfn.strings import BitSequences, StringEnv
from common.run import Run
from common.torch_utils import setup
from papers.gfn_losses.method import (
    LOSSES,
    SLOPE_CLIP,
    RegressionLoss,
    mean_weights,
    objective,
)
from papers.gfn_losses.task import (
    BIT_TASKS,
    GRID_TASKS,
    TASKS,
    BitSpec,
    grid_spec,
    theory_errors,
)

METHODS = (*LOSSES, "all")  # "all": for the task theory, which checks every loss


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "linex1"  # loss g: quadratic, linex1, linex05, shifted-cosh (theory: all)
    task: str = "grid-tb"  # experiment-objective, e.g. grid-tb, control-tb, bits-db, theory
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2000  # gradient steps (paper: 50k on the grid, 250k on bits)
    batch: int = 16  # trajectories per step and seed [paper; molecules: 4]
    eval_every: int = 50  # steps between evaluations
    slope_clip: float | None = None  # c of the surrogate [code: 50 (the default); molecules 10]
    ndim: int | None = None  # grid: D (default: the task's)
    height: int | None = None  # grid: H (default: the task's)
    reward: str | None = None  # grid: reward setting (default: the task's)
    table_limit: int = 1024  # grid: up to this many states, one forward pass over all per step
    n_bits: int = 40  # bits: n [paper: 120]
    word_bits: int = 4  # bits: k [paper: 8]
    n_modes: int = 20  # bits: |M| [paper: 60]
    delta: float = 5.0  # bits: Hamming radius of "mode found" [paper: 30 at n=120]
    net: str = "mlp"  # bits: mlp or transformer [paper: transformer]
    fragments: str = "blocks_PDB_105.json"  # molecules: fragment list in $PAPERS_DATA/seh
    proxy: str = "seh_proxy.npz"  # molecules: proxy weights in $PAPERS_DATA/seh
    width: int = 256  # molecules: width of the policy network [code]
    max_blocks: int = 8  # molecules: fragments per molecule [paper]


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    if (cfg.method == "all") != (cfg.task == "theory"):
        raise UserError("--method all goes with --task theory, and no other method does")
    if cfg.task.startswith("mols"):
        from papers.gfn_losses.molecules import train_molecules

        train_molecules(cfg)
    elif cfg.task in BIT_TASKS:
        train_bits(cfg)
    elif cfg.task in GRID_TASKS:
        train_grid(cfg)
    else:
        train_theory(cfg)


def train_theory(cfg: Config) -> None:
    """Experiment C: relative gradient errors of Theorem 1 in float64."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup(cfg.device, cfg.seed[0])
    run.restore()
    errors = {
        name: [[dag, part, error] for dag, part, error in theory_errors(loss)]
        for name, loss in LOSSES.items()
    }
    run.finish({"errors": errors})


# -- HyperGrid ------------------------------------------------------------------------------------


@dataclass
class Visited:
    """What an objective needs along trajectories; all [S, B, ...] with gradient."""

    log_pf: Tensor  # [S, B, T]
    log_pb: Tensor  # [S, B, T], 0 at the stop edge
    log_flow: Tensor  # [S, B, T+1] output of the flow head
    log_p_stop: Tensor  # [S, B, T+1]
    log_reward: Tensor | None  # [S, B, T+1] log R of the states passed (fl-*, modified-*)
    log_reward_last: Tensor  # [S, B]
    matching: tuple[Tensor, Tensor] | None = None  # FM pair at states[1:], [S, B, T] each
    stop_flow: Tensor | None = None  # FM: log F(x -> s_f) of the object, [S, B]


def split_heads(out: Tensor, env: HyperGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Network output -> forward logits [..., D+1], backward logits [..., D], log flow [...]."""
    n = env.n_actions
    return out[..., :n], out[..., n : n + env.n_backward], out[..., -1]


def visit_table(
    out: Tensor, env: HyperGrid, dag: EnumeratedDAG, traj: Trajectories, fm: bool
) -> Visited:
    """Gathers along trajectories of row numbers from the output on all states [S, N, out]."""
    logits, logits_b, log_flow = split_heads(out, env)
    log_pf = masked_log_softmax(logits, dag.forward_mask)
    n_actions = env.n_actions
    before, after = traj.states[..., :-1], traj.states[..., 1:]
    shape = before.shape

    def at_states(table: Tensor, states: Tensor) -> Tensor:
        return table.gather(1, states.flatten(1)).view(states.shape)

    def at_edges(table: Tensor, states: Tensor) -> Tensor:
        index = (states * n_actions + traj.actions).flatten(1)
        return table.flatten(1).gather(1, index).view(shape)

    log_reward = dag.log_reward.float()
    visited = Visited(
        log_pf=at_edges(log_pf, before),
        log_pb=torch.zeros_like(before, dtype=out.dtype),
        log_flow=at_states(log_flow, traj.states),
        log_p_stop=at_states(log_pf[..., env.stop], traj.states),
        log_reward=log_reward[traj.states],
        log_reward_last=log_reward[traj.last],
    )
    if fm:
        inflow = logits.flatten(1)[:, (dag.parents.clamp(min=0) * n_actions + dag.parent_actions)]
        pair = flows.flow_matching(inflow, dag.backward_mask, logits, dag.forward_mask)
        visited.matching = at_states(pair[0], after), at_states(pair[1], after)
        visited.stop_flow = at_states(logits[..., env.stop], traj.last)
    else:
        log_pb = masked_log_softmax(logits_b, dag.backward_mask)
        visited.log_pb = at_edges(nn.functional.pad(log_pb, (0, 1)), after)
    return visited


def visit_states(net: StackedMLP, env: HyperGrid, traj: Trajectories, name: str) -> Visited:
    """The same from a forward pass over the visited states only (grids too large for a table)."""
    fm, of_states = name == "fm", name.startswith(("fl-", "modified-"))
    # every state an action was taken from, packed per seed: padding costs no forward pass
    taken = traj.mask.flatten(1)  # [S, B*T]
    place = (taken.cumsum(-1) - 1).clamp(min=0)
    before = traj.states[..., :-1, :].flatten(1, 2)
    rows = torch.zeros_like(before[:, : int(place.max()) + 1])
    if len(rows) == 1:
        rows[0] = before[0, taken[0]]
    else:
        seed = torch.arange(len(rows), device=rows.device).unsqueeze(-1).expand_as(taken)
        rows[seed[taken], place[taken]] = before[taken]
    computed = net.from_active_inputs(env.active_inputs(rows))  # [S, packed, out]
    index = place.unsqueeze(-1).expand(-1, -1, computed.shape[-1])
    out = computed.gather(1, index).view(*traj.mask.shape, -1)
    out = nn.functional.pad(out, (0, 0, 0, 1))  # the state after the last action is a terminal copy
    logits, logits_b, log_flow = split_heads(out, env)
    mask = env.forward_mask(traj.states)
    log_pf = masked_log_softmax(logits, mask)
    after = traj.states[..., 1:, :]
    visited = Visited(
        log_pf=log_pf[..., :-1, :].gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1),
        log_pb=torch.zeros_like(traj.actions, dtype=out.dtype),
        log_flow=log_flow,
        log_p_stop=log_pf[..., env.stop],
        log_reward=None if not of_states else env.log_reward(traj.states).to(out.dtype),
        log_reward_last=env.log_reward(traj.last).to(out.dtype),
    )
    backward_mask = env.backward_mask(after)
    if fm:
        coordinates = torch.arange(env.ndim, device=out.device).expand(*after.shape[:-1], -1)
        parents = env.backward_step(
            after.unsqueeze(-2).expand(*after.shape[:-1], env.ndim, -1), coordinates
        ).clamp(min=0)
        inflow = net.from_active_inputs(env.active_inputs(parents))[..., : env.n_actions]
        inflow = inflow.gather(-1, coordinates.unsqueeze(-1)).squeeze(-1)
        visited.matching = flows.flow_matching(
            inflow, backward_mask, logits[..., 1:, :], mask[..., 1:, :]
        )
        at_last = (traj.length - 1).unsqueeze(-1)
        visited.stop_flow = logits[..., env.stop].gather(-1, at_last).squeeze(-1)
    else:
        log_pb = masked_log_softmax(logits_b[..., 1:, :], backward_mask)
        log_pb = nn.functional.pad(log_pb, (0, 1))
        visited.log_pb = log_pb.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)
    return visited


def grid_loss(
    name: str,
    visited: Visited,
    traj: Trajectories,
    stop: int,
    log_Z: Tensor | None,
    lam: float,
    loss: RegressionLoss,
    clip: float,
) -> tuple[Tensor, Tensor]:
    """Surrogate and logged loss per seed of one objective of Section 3. [S], [S]."""
    v, mask = visited, traj.mask
    if name == "tb":
        assert log_Z is not None
        pair = flows.trajectory_balance(
            v.log_pf, v.log_pb, mask, log_Z.unsqueeze(-1), v.log_reward_last
        )
        return objective(pair, mean_weights(torch.ones_like(mask[..., 0])), loss, clip)
    if name == "fm":
        assert v.matching is not None and v.stop_flow is not None
        inner = objective(v.matching, mean_weights(mask & (traj.actions != stop)), loss, clip)
        pair = flows.reward_matching(v.stop_flow, v.log_reward_last)
        last = objective(pair, mean_weights(torch.ones_like(mask[..., 0])), loss, clip)
        return inner[0] + last[0], inner[1] + last[1]
    log_flow = v.log_flow
    if name.startswith("fl-"):
        assert v.log_reward is not None
        log_flow = flows.forward_looking(log_flow, v.log_reward)
    if name.startswith("modified-"):
        assert v.log_reward is not None
        log_flow = flows.modified_log_flows(v.log_reward, v.log_p_stop)
    log_flow = flows.with_reward(log_flow, v.log_reward_last, traj.length)
    if name.endswith("stb"):
        pair = flows.subtrajectory_balance(log_flow, v.log_pf, v.log_pb, mask)
        weights = flows.subtrajectory_weights(traj.length, mask.shape[-1], lam) / mask.shape[1]
        return objective(pair, weights, loss, clip)
    edges = mask & (traj.actions != stop) if name.startswith("modified-") else mask
    pair = flows.detailed_balance(log_flow, v.log_pf, v.log_pb)
    return objective(pair, mean_weights(edges), loss, clip)


def train_grid(cfg: Config) -> None:
    """Experiment A and its control: on-policy training on a HyperGrid, exact metrics."""
    loss = LOSSES[cfg.method]
    name = cfg.task.split("-", 1)[1]
    clip = SLOPE_CLIP if cfg.slope_clip is None else cfg.slope_clip
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    spec = grid_spec(cfg.task, cfg.ndim, cfg.height, cfg.reward)
    env = spec.env(device)
    dag = env.dag().to(device)
    n_seeds, n_states = len(cfg.seed), env.n_states
    use_table = n_states <= cfg.table_limit
    all_states = env.all_states()
    encoded = env.encode(all_states) if use_table else None
    regions = env.region(all_states)

    # one torso with the heads P_F, P_B (learned) and F; FM: edge flows instead of P_F, no P_B
    n_out = env.n_actions + env.n_backward + 1
    init = seed_generators(cfg.seed, 0)
    net = StackedMLP(init, (env.input_dim, spec.hidden, spec.hidden, n_out)).to(device)
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device)) if name == "tb" else None
    groups = [{"params": list(net.parameters())}]
    if log_Z is not None:
        groups.append({"params": [log_Z], "lr": spec.lr_log_Z})
    optimizer = adam(groups, lr=spec.lr)
    parameters = [p for group in groups for p in group["params"]]
    generators = seed_generators(cfg.seed, 1, device)
    found = torch.zeros(n_seeds, 2**env.ndim, dtype=torch.bool, device=device)
    recent = torch.zeros(n_seeds, 500 * cfg.batch, dtype=torch.long, device=device)  # row numbers

    step = 0
    state = run.restore()
    if state:
        step = state["step"]
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        if log_Z is not None:
            log_Z.data.copy_(state["log_Z"])
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.set_state(saved)
        found, recent = state["found"].to(device), state["recent"].to(device)

    def checkpoint() -> dict[str, object]:
        return {
            "step": step,
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "log_Z": None if log_Z is None else log_Z.data,
            "generators": [g.get_state() for g in generators],
            "found": found,
            "recent": recent,
        }

    def log_pf_of_all_states() -> Tensor:
        with torch.no_grad():
            parts = [net(env.encode(part)) for part in all_states.split(20_000)]
            logits = split_heads(torch.cat(parts, 1), env)[0]
            return masked_log_softmax(logits, dag.forward_mask)

    while step < cfg.steps:
        u = uniforms(generators, (env.max_length, cfg.batch))
        if encoded is not None:
            out = net(encoded)  # [S, N, out]
            policy = masked_log_softmax(out[..., : env.n_actions].detach(), dag.forward_mask)
            traj = sample_from_table(dag, policy, u)
            visited = visit_table(out, env, dag, traj, fm=name == "fm")
            objects = traj.last
        else:
            traj = sample(
                env,
                lambda s: net.from_active_inputs(env.active_inputs(s))[..., : env.n_actions],
                u,
            )
            visited = visit_states(net, env, traj, name)
            objects = env.index(traj.last)
        surrogate, logged = grid_loss(name, visited, traj, env.stop, log_Z, spec.lam, loss, clip)
        optimizer.zero_grad()
        surrogate.sum().backward()
        norms = clip_grad_norm_per_seed(parameters, spec.grad_clip(name))
        optimizer.step()

        found = metrics.mark_regions(found, regions[objects])
        place = (step * cfg.batch) % recent.shape[1]
        recent[:, place : place + cfg.batch] = objects
        step += 1
        if step % cfg.eval_every == 0 or step == cfg.steps:
            run.log(
                step,
                l1_sum_exact=metrics.l1_sum_exact(dag, log_pf_of_all_states()).tolist(),
                regions=found.sum(-1).tolist(),
                loss=logged.tolist(),
                grad_norm=norms.tolist(),
                log_Z=[] if log_Z is None else log_Z.tolist(),
            )
        if run.due(step):
            run.save(step, checkpoint())

    seen = min(cfg.steps * cfg.batch, recent.shape[1])
    p_terminal = terminating_distribution(dag, log_pf_of_all_states())
    final = {
        "l1_mean_empirical": metrics.l1_mean_empirical(
            recent[:, :seen].cpu(), dag.target().cpu()
        ).tolist(),
        "p_terminal": p_terminal.float().cpu() if n_states <= 1024 else torch.zeros(0),
        "target": dag.target().float().cpu() if n_states <= 1024 else torch.zeros(0),
        "n_regions": 2**env.ndim,
        "ndim": env.ndim,
        "height": env.height,
    }
    run.finish({**checkpoint(), **final})


# -- Bit sequences --------------------------------------------------------------------------------


class SlotPolicy(nn.Module):
    """Logit of (slot i, word w) = position logit i + word logit (i, w).

    One more output is log F.
    """

    def __init__(self, kind: str, generators: list[torch.Generator], env: StringEnv, hidden: int):
        super().__init__()
        self.env, self.kind = env, kind
        n_slots, n_words = env.length, env.n_letters
        if kind == "mlp":
            n_out = n_slots + n_slots * n_words + 1
            self.net: nn.Module = StackedMLP(generators, (env.input_dim, hidden, hidden, n_out))
        elif kind == "transformer":
            self.net = StackedTransformer(
                generators, n_words + 2, n_slots + 1, n_out=n_words + n_slots + 1
            )
        else:
            raise UserError(f"unknown --net {kind!r}; choose mlp or transformer")

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States [S, ..., L] -> action logits [S, ..., L*V] and log F [S, ...]."""
        n_slots, n_words = self.env.length, self.env.n_letters
        if self.kind == "mlp":
            out = self.net(self.env.encode(states))
            position = out[..., :n_slots]
            words = out[..., n_slots:-1].unflatten(-1, (n_slots, n_words))
            log_flow = out[..., -1]
        else:
            lead = states.shape[1:-1]
            bos = torch.full_like(states[..., :1], n_words + 1)
            out = self.net(torch.cat([bos, states], -1).flatten(1, -2))
            out = out.unflatten(1, lead)  # [S, ..., L+1, V + 1 + L]
            position = out[..., 0, n_words + 1 :]
            words = out[..., 1:, :n_words]
            log_flow = out[..., 0, n_words]
        return (position.unsqueeze(-1) + words).flatten(-2), log_flow


def bits_loss(
    name: str,
    policy: SlotPolicy,
    env: StringEnv,
    traj: Trajectories,
    log_Z: Tensor,
    lam: float,
    loss: RegressionLoss,
    clip: float,
) -> tuple[Tensor, Tensor]:
    """Surrogate and logged loss per seed; DB and STB are forward-looking. [S], [S]."""
    before = traj.states[..., :-1, :]
    logits, log_flow = policy(before)
    log_pf = masked_log_softmax(logits, env.forward_mask(before))
    log_pf = log_pf.gather(-1, traj.actions.unsqueeze(-1)).squeeze(-1)  # [S, B, L]
    fills = torch.arange(1, env.length + 1, device=log_pf.device, dtype=log_pf.dtype)
    log_pb = (-fills.log()).expand_as(log_pf)  # uniform P_B: 1/t
    log_reward = env.log_reward(traj.states)  # [S, B, L+1], of the filled words
    if name == "tb":
        pair = flows.trajectory_balance(
            log_pf, log_pb, traj.mask, log_Z.unsqueeze(-1), log_reward[..., -1]
        )
        return objective(pair, mean_weights(traj.mask[..., 0]), loss, clip)
    log_flow = flows.forward_looking(log_flow, log_reward[..., :-1])
    log_flow = torch.cat([log_flow, log_reward[..., -1:]], -1)  # F(s_n) = R
    if name == "db":
        pair = flows.detailed_balance(log_flow, log_pf, log_pb)
        return objective(pair, mean_weights(traj.mask), loss, clip)
    pair = flows.subtrajectory_balance(log_flow, log_pf, log_pb, traj.mask)
    weights = flows.subtrajectory_weights(traj.length, env.length, lam) / traj.mask.shape[1]
    return objective(pair, weights, loss, clip)


def rank_correlation(
    policy: SlotPolicy,
    env: StringEnv,
    modes: BitSequences,
    n_seeds: int,
    generator: torch.Generator,
    rounds: int = 10,
) -> list[float]:
    """Spearman of log R and log P_T^ on the test set, P_T^ from ``rounds`` backward samples."""
    objects = modes.to_words(modes.test_bits)
    log_p = []
    with torch.no_grad():
        for part in objects.split(100):
            repeated = part.expand(rounds, *part.shape)
            u = torch.rand((env.length, *repeated.shape[:-1]), generator=generator)
            traj = sample_backward(env, repeated, u.to(part.device))
            before = traj.states[..., :-1, :]  # [N, objects, L, L]
            logits, _ = policy(before.expand(n_seeds, *before.shape))
            log_pf = masked_log_softmax(logits, env.forward_mask(before))
            chosen = traj.actions.expand(n_seeds, *traj.actions.shape).unsqueeze(-1)
            log_pf = log_pf.gather(-1, chosen).squeeze(-1).sum(-1)  # [S, N, objects]
            log_pb = torch.full_like(log_pf, -math.lgamma(env.length + 1))
            log_p.append(
                metrics.backward_log_probability(log_pf.transpose(0, 1), log_pb.transpose(0, 1))
            )
    estimate = torch.cat(log_p, -1).cpu()
    log_reward = modes.log_reward(objects).cpu()
    return [metrics.spearman(row, log_reward) for row in estimate]


def train_bits(cfg: Config) -> None:
    """Experiment B: bit sequences, slots filled in any order."""
    loss = LOSSES[cfg.method]
    name = cfg.task.split("-", 1)[1]
    clip = SLOPE_CLIP if cfg.slope_clip is None else cfg.slope_clip
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    spec = BitSpec(
        n_bits=cfg.n_bits,
        word_bits=cfg.word_bits,
        n_modes=cfg.n_modes,
        delta=cfg.delta,
        net=cfg.net,
    )
    modes = spec.modes(device)
    env = modes.env("slots")
    n_seeds = len(cfg.seed)
    policy = SlotPolicy(spec.net, seed_generators(cfg.seed, 0), env, spec.hidden).to(device)
    log_Z_parts = nn.Parameter(torch.zeros(n_seeds, 64, device=device))  # log Z is their sum
    groups = [{"params": list(policy.parameters())}]
    if name == "tb":
        groups.append({"params": [log_Z_parts], "lr": spec.lr_log_Z})
    optimizer = adam(groups, weight_decay=spec.weight_decay, lr=spec.lr)
    parameters = [p for group in groups for p in group["params"]]
    generators = seed_generators(cfg.seed, 1, device)
    found = torch.zeros(n_seeds, spec.n_modes, dtype=torch.bool, device=device)
    recent = torch.zeros(
        n_seeds, 1000 // cfg.batch * cfg.batch, env.length, dtype=torch.long, device=device
    )

    step = 0
    state = run.restore()
    if state:
        step = state["step"]
        policy.load_state_dict(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        log_Z_parts.data.copy_(state["log_Z_parts"])
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.set_state(saved)
        torch.set_rng_state(state["torch_rng"])  # dropout
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"])
        found, recent = state["found"].to(device), state["recent"].to(device)

    def checkpoint() -> dict[str, object]:
        return {
            "step": step,
            "policy": policy.state_dict(),
            "optimizer": optimizer.state_dict(),
            "log_Z_parts": log_Z_parts.data,
            "generators": [g.get_state() for g in generators],
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if device.type == "cuda" else None,
            "found": found,
            "recent": recent,
        }

    policy.train()  # dropout stays on while sampling, as in the authors' code
    while step < cfg.steps:
        u = uniforms(generators, (env.length, cfg.batch))
        traj = sample(env, lambda s: policy(s)[0], u, epsilon=spec.epsilon)
        log_Z = log_Z_parts.sum(-1)
        surrogate, logged = bits_loss(name, policy, env, traj, log_Z, spec.lam, loss, clip)
        optimizer.zero_grad()
        surrogate.sum().backward()
        clip_grad_norm_per_seed(parameters, spec.grad_clip)
        optimizer.step()

        distances = modes.distances(traj.last)  # [S, B, M]
        found = metrics.mark_modes(found, distances, spec.delta)
        place = (step * cfg.batch) % recent.shape[1]
        recent[:, place : place + cfg.batch] = traj.last
        step += 1
        if step % cfg.eval_every == 0 or step == cfg.steps:
            run.log(
                step,
                modes=found.sum(-1).tolist(),
                distance=distances.min(-1).values.mean(-1).tolist(),
                loss=logged.tolist(),
                log_Z=log_Z.tolist(),
            )
        if run.due(step):
            run.save(step, checkpoint())

    policy.eval()
    rng = torch.Generator().manual_seed(0)  # the same backward samples for every loss
    finite = [
        all(bool(torch.isfinite(p[s]).all()) for p in policy.parameters()) for s in range(n_seeds)
    ]
    seen = min(cfg.steps * cfg.batch, recent.shape[1])
    distinct = [metrics.distinct_fraction(recent[s, :seen]) for s in range(n_seeds)]
    final = {
        "spearman": rank_correlation(policy, env, modes, n_seeds, rng),
        "distinct": distinct,
        "collapsed": [bool(d < 0.05) or not f for d, f in zip(distinct, finite, strict=True)],
        "n_modes": spec.n_modes,
    }
    run.finish({**checkpoint(), **final})


if __name__ == "__main__":
    run_cli(train, Config)
