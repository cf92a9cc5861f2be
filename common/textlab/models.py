"""Public architectures at small sizes, by the classes of ``transformers``.

Every function gives a model in float32 with fresh weights drawn from ``seed`` by the library's own
initialisation. Numbers of special tokens lie inside the vocabulary (0 is ``<eos>``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.textlab.tokens import EOS_ID

SPECIAL = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": None}


def made(kind: str, seed: int, settings: dict[str, Any]) -> Any:
    """A causal language model of a class of ``transformers``.

    Args:
        kind: first word of the class, e.g. ``Llama``.
        seed: of the weights.
        settings: of its configuration, by the library's names.
    """
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{**SPECIAL, "use_cache": False, **settings})
    name = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, name)(config)


def common_settings(
    vocabulary: int, length: int, layers: int, width: int, heads: int
) -> dict[str, Any]:
    """Sizes by the names that Llama and its kin have in common."""
    return {
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }


def gpt2(
    vocabulary: int, length: int, *, layers: int, width: int, heads: int, seed: int, bias: bool
) -> Any:
    """GPT-2: learned positions, GELU, tied head, no dropout.

    Args:
        length: longest context.
        bias: False holds all biases, those of layer norms included, at 0 (nanoGPT).
    """
    settings = {
        "vocab_size": vocabulary,
        "n_positions": length,
        "n_layer": layers,
        "n_embd": width,
        "n_head": heads,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }
    model = made("GPT2", seed, settings)
    if not bias:
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.requires_grad_(False).zero_()
    return model


def llama(
    vocabulary: int, length: int, *, layers: int, width: int, heads: int, hidden: int, seed: int
) -> Any:
    """Llama: rotary positions, RMS norm, SwiGLU of ``hidden`` neurons, own head."""
    settings = {
        **common_settings(vocabulary, length, layers, width, heads),
        "intermediate_size": hidden,
    }
    return made("Llama", seed, settings)


def mixtral(
    vocabulary: int,
    length: int,
    *,
    layers: int,
    width: int,
    heads: int,
    hidden: int,
    experts: int,
    active: int,
    balance: float,
    seed: int,
) -> Any:
    """Mixtral: Llama with ``experts`` networks of ``hidden`` neurons, of which ``active`` act.

    Args:
        balance: coefficient of the load-balancing loss, which ``training.lm_loss`` adds.
    """
    settings = {
        **common_settings(vocabulary, length, layers, width, heads),
        "intermediate_size": hidden,
        "num_local_experts": experts,
        "num_experts_per_tok": active,
        "output_router_logits": True,
        "router_aux_loss_coef": balance,
        "sliding_window": None,
    }
    return made("Mixtral", seed, settings)


def qwen_moe(
    vocabulary: int,
    length: int,
    *,
    layers: int,
    width: int,
    heads: int,
    hidden: int,
    shared: int,
    experts: int,
    active: int,
    balance: float,
    seed: int,
) -> Any:
    """Qwen1.5-MoE: routed experts beside one of ``shared`` neurons that always acts.

    The shares of the chosen experts are not normalised to 1, as in Qwen1.5-MoE-A2.7B.
    """
    settings = {
        **common_settings(vocabulary, length, layers, width, heads),
        "moe_intermediate_size": hidden,
        "shared_expert_intermediate_size": shared,
        "num_experts": experts,
        "num_experts_per_tok": active,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "output_router_logits": True,
        "router_aux_loss_coef": balance,
    }
    return made("Qwen2Moe", seed, settings)


def n_parameters(module: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(p.numel() for p in module.parameters())


def logits(model: Any, inputs: Tensor, **options: Any) -> Tensor:
    """Logits of what follows each token. [B, T] -> [B, T, V]."""
    found: Tensor = model(input_ids=inputs, **options).logits
    return found


__all__ = [
    "gpt2",
    "llama",
    "logits",
    "made",
    "mixtral",
    "n_parameters",
    "qwen_moe",
]
