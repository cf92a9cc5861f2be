"""Transformers as a row of modules: attention and feed-forward parts that end in a projection.

A module maps hidden states h to features X (the inputs of its output projection), to an output
Y = X W + b, to the next hidden states. The models are those of ``transformers``; here is only the
order in which their own parts are called, and how a part is made smaller.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.errors import UserError

Kind = Literal["attention", "ffn"]


@dataclass(frozen=True)
class Batch:
    """Texts side by side.

    Attributes:
        ids: numbers of tokens. [B, T] int64.
        real: False for padding. [B, T].
        types: of BERT's two sentences; None: all the first. [B, T] int64.
    """

    ids: Tensor
    real: Tensor
    types: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """On a device."""
        types = None if self.types is None else self.types.to(device)
        return Batch(self.ids.to(device), self.real.to(device), types)


def rows_of(x: Tensor, batch: Batch) -> Tensor:
    """The real tokens. [B, T, k] -> [n, k]."""
    return x[batch.real]


@dataclass(frozen=True)
class Module:
    """A prunable part of a layer.

    Attributes:
        kind: attention (units are heads, or groups of heads with one key) or ffn (neurons).
        layer: its number.
        first: projections whose outputs belong to units, with how many outputs a unit has.
        last: the output projection.
        unit: inputs of ``last`` per unit.
    """

    kind: Kind
    layer: int
    first: tuple[tuple[nn.Linear, int], ...]
    last: nn.Linear
    unit: int

    @property
    def name(self) -> str:
        """For rows."""
        return f"{self.layer}-{self.kind}"

    @property
    def n_units(self) -> int:
        """Heads (groups of them) or neurons."""
        return self.last.in_features // self.unit

    def inputs_of(self, units: Tensor) -> Tensor:
        """Indices of the inputs of ``last`` that belong to units. [u] -> [u * unit]."""
        return spread(units, self.unit)


def spread(units: Tensor, width: int) -> Tensor:
    """Indices of ``width`` neighbours per unit."""
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()


class Architecture(ABC):
    """A model and its modules in forward order. Subclasses know one family each.

    Attributes:
        model: whole, with its heads.
        modules: attention, ffn, attention, … of all layers.
    """

    model: Any
    modules: list[Module]

    @abstractmethod
    def start(self, batch: Batch) -> Tensor:
        """Hidden states before the first layer. [B, T] -> [B, T, d]."""

    @abstractmethod
    def entry(self, index: int, h: Tensor) -> Tensor:
        """What the first projections of a module receive. [B, T, d]."""

    @abstractmethod
    def features(self, index: int, h: Tensor, batch: Batch) -> Tensor:
        """What its output projection receives. [B, T, d_in]."""

    @abstractmethod
    def after(self, index: int, h: Tensor, y: Tensor) -> Tensor:
        """Hidden states after it: the residual sum, normalised where the family does that."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def layer_parameters(self) -> int:
        """Parameters of the layers; embeddings and heads are left out."""
        return sum(p.numel() for p in self.layers.parameters())

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """All layers."""

    def shrunk(self, units: Sequence[Tensor], linears: Sequence[Any]) -> Any:
        """A copy of the model from which pruned units are gone, with reconstructed projections.

        Args:
            units: kept units of each module.
            linears: weight [k, d_out] and bias [d_out] of each.
        """
        made = type(self)(copy.deepcopy(self.model))
        for index, (kept, (weight, bias)) in enumerate(zip(units, linears, strict=True)):
            module = made.modules[index]
            for linear, width in module.first:
                keep_outputs(linear, spread(kept, width))
            last = module.last
            dtype = last.weight.dtype
            last.weight = nn.Parameter(weight.T.to(dtype).contiguous(), requires_grad=False)
            last.in_features = weight.shape[0]
            if last.bias is not None or bool(bias.abs().max() > 0):
                last.bias = nn.Parameter(bias.to(dtype).clone(), requires_grad=False)
            made.resized(index, len(kept))
        return made.model

    @abstractmethod
    def resized(self, index: int, kept: int) -> None:
        """Tell a part of the model how many units it has now."""


def keep_outputs(linear: nn.Linear, kept: Tensor) -> None:
    """Remove all other outputs of a linear layer."""
    linear.weight = nn.Parameter(linear.weight.detach()[kept].clone(), requires_grad=False)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[kept].clone(), requires_grad=False)
    linear.out_features = len(kept)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention may look, the lowest number where not."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


class Bert(Architecture):
    """BERT, alone or below a head of ``transformers``."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._base = getattr(model, "bert", model)
        self.modules = []
        for number, layer in enumerate(self.layers):
            own = layer.attention.self
            projections = (own.query, own.key, own.value)
            width = own.attention_head_size
            first = tuple((linear, width) for linear in projections)
            self.modules.append(
                Module("attention", number, first, layer.attention.output.dense, width)
            )
            inner = ((layer.intermediate.dense, 1),)
            self.modules.append(Module("ffn", number, inner, layer.output.dense, 1))

    @property
    def layers(self) -> nn.ModuleList:
        return self._base.encoder.layer

    def start(self, batch: Batch) -> Tensor:
        return self._base.embeddings(input_ids=batch.ids, token_type_ids=batch.types)

    def entry(self, index: int, h: Tensor) -> Tensor:
        return h

    def features(self, index: int, h: Tensor, batch: Batch) -> Tensor:
        layer = self.layers[index // 2]
        if index % 2:
            return layer.intermediate(h)
        mask = additive(batch.real[:, None, None, :], h.dtype)  # no query looks at padding
        length = h.shape[1]
        return layer.attention.self(h, mask.expand(-1, -1, length, -1))[0]

    def after(self, index: int, h: Tensor, y: Tensor) -> Tensor:
        layer = self.layers[index // 2]
        part = layer.output if index % 2 else layer.attention.output
        return part.LayerNorm(y + h)

    def resized(self, index: int, kept: int) -> None:
        if index % 2 == 0:
            own = self.layers[index // 2].attention.self
            own.num_attention_heads = kept
            own.all_head_size = kept * own.attention_head_size


class Llama(Architecture):
    """Llama: a head group with one key and value is a unit."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._base = getattr(model, "model", model)
        self.modules = []
        for number, layer in enumerate(self.layers):
            own, mlp = layer.self_attn, layer.mlp
            width, group = own.head_dim, own.num_key_value_groups
            projections = ((own.q_proj, group * width), (own.k_proj, width), (own.v_proj, width))
            self.modules.append(Module("attention", number, projections, own.o_proj, group * width))
            inner = ((mlp.gate_proj, 1), (mlp.up_proj, 1))
            self.modules.append(Module("ffn", number, inner, mlp.down_proj, 1))

    @property
    def layers(self) -> nn.ModuleList:
        return self._base.layers

    def start(self, batch: Batch) -> Tensor:
        return self._base.embed_tokens(batch.ids)

    def entry(self, index: int, h: Tensor) -> Tensor:
        layer = self.layers[index // 2]
        norm = layer.post_attention_layernorm if index % 2 else layer.input_layernorm
        return norm(h)

    def features(self, index: int, h: Tensor, batch: Batch) -> Tensor:
        layer, x = self.layers[index // 2], self.entry(index, h)
        if index % 2:
            return layer.mlp.act_fn(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
        length = h.shape[1]
        places = torch.arange(length, device=h.device)
        causal = places[None, :] <= places[:, None]
        mask = additive(causal[None, None] & batch.real[:, None, None, :], h.dtype)
        found: list[Tensor] = []  # caught before the output projection, which is not called
        own, last = layer.self_attn, layer.self_attn.o_proj
        own.o_proj = nn.Identity()
        try:
            found.append(
                own(
                    hidden_states=x,
                    attention_mask=mask,
                    position_embeddings=self._base.rotary_emb(x, position_ids=places[None]),
                )[0]
            )
        finally:
            own.o_proj = last
        return found[0]

    def after(self, index: int, h: Tensor, y: Tensor) -> Tensor:
        return h + y

    def resized(self, index: int, kept: int) -> None:
        pass  # the number of heads follows from the shapes


FAMILIES: dict[str, type[Architecture]] = {"bert": Bert, "llama": Llama}


def architecture(model: Any) -> Architecture:
    """The modules of a model of ``transformers``, in evaluation mode, without gradients.

    Raises:
        UserError: for a family that is not known.
    """
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise UserError(f"models of type '{kind}' cannot be pruned; choose {', '.join(FAMILIES)}")
    return FAMILIES[kind](model.eval().requires_grad_(False))


class Stream:
    """Hidden states of texts, advanced one module at a time.

    Attributes:
        hidden: of each batch. [B, T, d] each.
    """

    def __init__(self, arch: Architecture, batches: Sequence[Batch]) -> None:
        self._arch, self._batches = arch, batches
        self.hidden = [arch.start(batch) for batch in batches]

    def features(self, index: int, i: int) -> Tensor:
        """Inputs of a module's output projection for batch ``i``. [B, T, d_in]."""
        return self._arch.features(index, self.hidden[i], self._batches[i])

    def advance(self, index: int, i: int, y: Tensor) -> None:
        """Batch ``i`` goes behind a module whose output was ``y``. [B, T, d_out]."""
        self.hidden[i] = self._arch.after(index, self.hidden[i], y)


class Statistics:
    """Of the inputs of a module over real tokens, in float64: number, mean, square, variance."""

    def __init__(self, k: int, device: torch.device) -> None:
        self.n = 0
        self._sum, self._square = torch.zeros(2, k, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """Count tokens. [n, k]."""
        x = x.double()
        self.n += len(x)
        self._sum += x.sum(0)
        self._square += x.square().sum(0)

    @property
    def norm(self) -> Tensor:
        """|x_j| over all tokens. [k]."""
        return self._square.sqrt()

    @property
    def variance(self) -> Tensor:
        """Of each input. [k]."""
        return (self._square / self.n - (self._sum / self.n).square()).clamp_min(0)


class Dense:
    """What every module of the unpruned model receives and gives, and statistics of its inputs.

    Args:
        arch: the model.
        batches: texts.
        remember: keep it after the first time (two tensors per module and batch), so that many
            reconstructions on the same texts cost one forward pass of the unpruned model.
    """

    def __init__(self, arch: Architecture, batches: Sequence[Batch], remember: bool = True) -> None:
        self._arch, self._batches, self._remember = arch, batches, remember
        self._known: list[tuple[list[Tensor], list[Tensor]]] = []
        self.statistics: list[Statistics] = []
        if not remember:
            for _ in self._passed():
                pass
        else:
            self._known = list(self._passed())

    def __len__(self) -> int:
        return len(self._arch.modules)

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        return iter(self._known) if self._remember else self._passed()

    @torch.inference_mode()
    def _passed(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        stream, first = Stream(self._arch, self._batches), not self.statistics
        for index, module in enumerate(self._arch.modules):
            found = Statistics(module.last.in_features, self._arch.device)
            received, given = list(stream.hidden), []
            for i, batch in enumerate(self._batches):
                x = stream.features(index, i)
                if first:
                    found.add(rows_of(x, batch))
                given.append(module.last(x))
                stream.advance(index, i, given[i])
            if first:
                self.statistics.append(found)
            yield received, given


__all__ = [
    "Architecture",
    "Batch",
    "Bert",
    "Dense",
    "Llama",
    "Module",
    "Statistics",
    "Stream",
    "additive",
    "architecture",
    "rows_of",
    "spread",
]
