"""The mixture layers of a model of ``transformers``: their experts, routers and inputs.

Experts of a layer are fused there: ``mlp.experts.gate_up_proj`` [n, 2 ff, D], the gate's half
first, and ``down_proj`` [n, D, ff]; the router is ``mlp.gate``.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from papers.hc_smoe.clustering import Labels
from papers.hc_smoe.method import Experts, MergedExperts

Visit = Callable[[int, Tensor, Tensor, Tensor], None]


def blocks_of(model: Any) -> list[Any]:
    """The mixture layers, in order.

    Raises:
        UserError: if there are none of the kind that can be merged here.
    """
    found = [
        block
        for block in model.modules()
        if hasattr(block, "gate") and hasattr(getattr(block, "experts", None), "gate_up_proj")
    ]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no fused experts beside a router (as Mixtral and "
            "Qwen2-MoE have); there is nothing to merge"
        )
    return found


def experts_of(block: Any) -> Experts:
    """Its experts; the tensors are the layer's own."""
    return Experts(block.experts.gate_up_proj.detach(), block.experts.down_proj.detach())


def routing_of(block: Any) -> tuple[int, bool]:
    """k, and whether the k shares are normalised."""
    return block.gate.top_k, bool(getattr(block.gate, "norm_topk_prob", True))


@torch.no_grad()
def visit_inputs(model: Any, windows: Tensor, visit: Visit, batch: int = 32) -> None:
    """One forward pass of a model; ``visit`` sees what goes into each mixture layer.

    Args:
        windows: tokens. [B, T].
        visit: called with the layer's number, its input [b T, D], the router's logits [b T, n]
            and choices [b T, k].
        batch: windows at once.
    """

    def hook(layer: int) -> Callable[..., None]:
        def look(block: Any, args: tuple[Tensor, ...]) -> None:
            x = args[0].reshape(-1, args[0].shape[-1])
            logits, _, chosen = block.gate(x)
            visit(layer, x, logits, chosen)

        return look

    device = next(model.parameters()).device
    with contextlib.ExitStack() as stack:
        for layer, block in enumerate(blocks_of(model)):
            stack.callback(block.register_forward_pre_hook(hook(layer)).remove)
        for part in windows.split(batch):
            model.base_model(input_ids=part.to(device))


@dataclass(frozen=True)
class Inputs:
    """What went into a layer.

    Attributes:
        x: [T, D].
        logits: of the router. [T, n].
    """

    x: Tensor
    logits: Tensor


def inputs_of(model: Any, windows: Tensor, batch: int = 32) -> list[Inputs]:
    """What goes into each mixture layer."""
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in blocks_of(model)]
    visit_inputs(model, windows, lambda i, x, z, chosen: seen[i].append((x, z)), batch)
    return [Inputs(*(torch.cat(parts) for parts in zip(*layer, strict=True))) for layer in seen]


@dataclass(frozen=True)
class Reduced:
    """What a layer's experts became.

    Attributes:
        experts: r of them.
        labels: which of them each of those that the router knows points to.
        kept: pruned: the experts that the router still knows; None: all.
    """

    experts: Experts
    labels: Labels
    kept: list[int] | None = None


def pruned(experts: Experts, kept: Sequence[int]) -> Reduced:
    """The experts that stay, with the rows of the router that belong to them."""
    return Reduced(experts.of(kept), list(range(len(kept))), list(kept))


def install(model: Any, layers: Sequence[Reduced] | None) -> contextlib.ExitStack:
    """Put reduced layers into a model; closing what is returned gives it its own again.

    ``with install(model, layers): ...``; None: the model stays as it is.
    """
    stack = contextlib.ExitStack()
    for block, reduced in zip(blocks_of(model), layers, strict=True) if layers else ():
        stack.callback(setattr, block, "experts", block.experts)
        if reduced.kept is not None:
            stack.callback(setattr, block, "gate", block.gate)
            block.gate = without_rows(block.gate, reduced.kept)
        block.experts = MergedExperts(reduced.experts, reduced.labels)
    return stack


def without_rows(gate: Any, kept: Sequence[int]) -> Any:
    """A router that knows some experts alone."""
    made = copy.copy(gate)  # shares its settings; the weight is a new one
    made._parameters = dict(gate._parameters)
    at = torch.as_tensor(list(kept), device=gate.weight.device)
    made.weight = nn.Parameter(gate.weight.detach()[at], requires_grad=False)
    made.num_experts, made.top_k = len(kept), min(gate.top_k, len(kept))
    return made
