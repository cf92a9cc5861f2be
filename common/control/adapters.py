"""Low-rank adapters (LoRA, Hu et al. 2022) by peft, several of them on one frozen or free base.

y = W x + (alpha / rank) B A x with A drawn as nn.Linear's weight and B = 0. A layer that has
adapters keeps its own weight as ``base_layer``; which parameters of the base are trained is left
as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

ATTENTION = ("c_attn",)  # GPT-2's joint map to queries, keys and values


def add_lora(
    model: nn.Module,
    name: str,
    seed: int,
    *,
    rank: int = 8,
    alpha: float = 1.0,
    targets: Sequence[str] = ATTENTION,
) -> None:
    """Give each target layer of ``model`` a new adapter, which is then the one in use.

    Args:
        model: changed in place, such as the blocks of a decision transformer.
        name: of the adapter, without dots.
        seed: of A.
        rank: of B A.
        alpha: B A is multiplied by alpha / rank.
        targets: ends of the names of linear layers or of GPT-2's Conv1D.

    Raises:
        ValueError: if there is an adapter of this name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if any(name in layer.lora_A for layer in _layers(model)):
        raise ValueError(f"there is an adapter '{name}' already")
    free = {id(p): p.requires_grad for p in model.parameters()}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it by the rank, whatever it is
        lora_dropout=0.0,
        bias="none",
        target_modules=list(targets),
        fan_in_fan_out=True,  # Conv1D keeps its weight transposed; peft corrects it elsewhere
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of there being several adapters
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=name)
    for parameter in model.parameters():  # peft freezes the base
        parameter.requires_grad_(free.get(id(parameter), True))
    use_lora(model, name)


def use_lora(model: nn.Module, name: str | None) -> None:
    """Have the model compute with this adapter alone; None: with the base alone.

    What is trained is not changed by it.
    """
    for layer in _layers(model):
        free = {p: p.requires_grad for p in layer.parameters()}
        if name is not None:
            layer.set_adapter([name])
        layer.enable_adapters(name is not None)
        for parameter, is_free in free.items():
            parameter.requires_grad_(is_free)


def lora_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """A and B of every layer's adapter of this name."""
    return [
        layer_part[name].weight
        for layer in _layers(model)
        for layer_part in (layer.lora_A, layer.lora_B)
    ]


def merge_lora(model: nn.Module, name: str) -> None:
    """Add an adapter to the weights of the base; then nothing of it is computed any more."""
    for layer in _layers(model):
        layer.merge(adapter_names=[name])


def _layers(model: nn.Module) -> Iterator[Any]:
    from peft.tuners.lora import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))
