"""Decision transformers with prompts on GPT-2's blocks (Chen et al. 2021; Xu et al. 2022).

The tokens of step t are (return-to-go, state, action), each through a linear map of its own, plus
a learned embedding of the time step that all three share; the blocks have no positions of their
own. The hidden state at the *state* token is the feature from which the action is predicted, so it
has seen the step's return and state, not its action. A prompt, some steps of a demonstration of
the task through maps of its own, stands before the window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.control.sequences import Windows

TOKENS = 3  # of a step: return-to-go, state, action
STATE = 1  # the state's place among them


class PromptTokens(NamedTuple):
    """An embedded prompt; a soft prompt is one whose embeddings are parameters."""

    embeddings: Tensor  # [B, 3 K*, width]
    real: Tensor  # [B, 3 K*] bool


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes; the defaults are those of Prompt-DT."""

    state_dim: int
    action_dim: int
    max_steps: int  # time steps of the longest episode
    prompted: bool = False  # whether there are embeddings for prompts
    width: int = 128
    layers: int = 3
    heads: int = 1
    dropout: float = 0.1
    activation: str = "relu"


class StepEmbedding(nn.Module):
    """The three tokens of every step, without layer norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed_return = nn.Linear(1, config.width)
        self.embed_state = nn.Linear(config.state_dim, config.width)
        self.embed_action = nn.Linear(config.action_dim, config.width)
        self.embed_timestep = nn.Embedding(config.max_steps, config.width)

    def forward(self, windows: Windows) -> Tensor:
        """[B, 3 K, width], in the order return, state, action of each step."""
        parts = torch.stack(
            (
                self.embed_return(windows.returns.unsqueeze(-1)),
                self.embed_state(windows.states),
                self.embed_action(windows.actions),
            ),
            dim=2,
        )  # [B, K, 3, width]
        return (parts + self.embed_timestep(windows.timesteps).unsqueeze(2)).flatten(1, 2)


class DecisionTransformer(nn.Module):
    """Actions of windows; made by :func:`decision_transformer`.

    Parameters whose names begin with ``blocks.`` are those of the blocks and the last layer norm;
    the others are embeddings (``window.``, ``demonstration.``, ``norm.``) and the ``head.``.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.window = StepEmbedding(config)
        self.demonstration = StepEmbedding(config) if config.prompted else None
        self.norm = nn.LayerNorm(config.width)  # of the window's tokens, not of the prompt's
        self.blocks = _gpt2(config)
        self.head = nn.Linear(config.width, config.action_dim)

    def embed_prompt(self, prompt: Windows) -> PromptTokens:
        """The tokens of a prompt [B, K*]; its tensors may carry gradients.

        Raises:
            ValueError: if it was configured without.
        """
        if self.demonstration is None:
            raise ValueError("this transformer was made without prompts (prompted = False)")
        real = prompt.real.repeat_interleave(TOKENS, 1)
        return PromptTokens(self.demonstration(prompt), real)

    def features(self, windows: Windows, prompt: Windows | PromptTokens | None = None) -> Tensor:
        """Hidden states at the state tokens. [B, K, width]"""
        tokens = self.norm(self.window(windows))  # [B, 3 K, width]
        real = windows.real.repeat_interleave(TOKENS, 1)
        if prompt is not None:
            before = self.embed_prompt(prompt) if isinstance(prompt, Windows) else prompt
            tokens = torch.cat((before.embeddings, tokens), 1)
            real = torch.cat((before.real, real), 1)
        hidden = self.blocks(
            inputs_embeds=tokens, attention_mask=attention_mask(real), use_cache=False
        ).last_hidden_state
        length = windows.returns.shape[1]
        return hidden[:, -TOKENS * length :].unflatten(1, (length, TOKENS))[:, :, STATE]

    def forward(self, windows: Windows, prompt: Windows | PromptTokens | None = None) -> Tensor:
        """Actions tanh(head(features)) in (-1, 1). [B, K, a]"""
        return torch.tanh(self.head(self.features(windows, prompt)))


def decision_transformer(config: TransformerConfig, seed: int) -> DecisionTransformer:
    """A new transformer on the CPU; its weights depend on the configuration and the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DecisionTransformer(config)


def attention_mask(real: Tensor) -> Tensor:
    """Which tokens each token attends to: itself and the real ones before it. [B, 1, T, T] bool.

    A padding token attends to itself, so that no softmax is empty; nobody attends to it.

    Args:
        real: [B, T] bool.
    """
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=real.device)
    return ((causal & real.unsqueeze(1)) | itself).unsqueeze(1)


def adamw(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    lr: float = 1e-4,
    weight_decay: float = 1e-4,
) -> torch.optim.AdamW:
    """AdamW in one fused kernel, with the defaults of Prompt-DT."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


class NoPositions(nn.Module):
    """In the place of GPT-2's embedding of positions: time steps are in the tokens."""

    def forward(self, positions: Tensor) -> Tensor:
        """Zero, whatever the positions."""
        return torch.zeros((), device=positions.device)


def _gpt2(config: TransformerConfig) -> Any:
    """GPT-2's blocks and last layer norm, fed with embeddings; it has no parameters beside them."""
    from transformers import GPT2Config, GPT2Model

    blocks: Any = GPT2Model(
        GPT2Config(
            vocab_size=1,  # there are no words
            bos_token_id=None,
            eos_token_id=None,
            n_positions=1,  # nor positions
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            activation_function=config.activation,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            use_cache=False,
            attn_implementation="sdpa",  # type: ignore[call-arg]
        )
    )
    blocks.wte, blocks.wpe = nn.Identity(), NoPositions()
    return blocks
