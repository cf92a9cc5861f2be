"""A trained language model, for use outside of the experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.run import Run
from common.textlab import public, tokens
from papers.mst.config import Config
from papers.mst.costs import prunable
from papers.mst.learning import nll
from papers.mst.plan import Plan, plan_of
from papers.mst.task import CORPORA, GPT2, model_of


def model_from(run: Run, plan: Plan) -> Any:
    """The model that a run ended with, masked weights 0. On the CPU."""
    model = model_of(plan.task, plan.width, plan.heads, 0)
    model.load_state_dict(run.final()["model"])
    return model.eval()


class LanguageModel:
    """What a run has trained.

    Attributes:
        model: of ``transformers``.
        tokenizer: of the text.
        density: share of the masked layers' weights that are not 0.
    """

    def __init__(self, model: Any, tokenizer: Any, plan: Plan) -> None:
        self.model, self.tokenizer, self._plan = model, tokenizer, plan
        weights = prunable(model, head=plan.task.mask_head).values()
        there, size = (sum(int(n) for n in ns) for ns in zip(
            *((w.count_nonzero(), w.numel()) for w in weights), strict=True))  # fmt: skip
        self.density = there / size

    def _ids(self, text: str) -> list[int]:
        found = self.tokenizer.encode([text] if self._plan.task.text != "openwebtext" else text)
        return [int(i) for i in (found[0] if found and isinstance(found[0], list) else found)]

    def score(self, text: str) -> float:
        """Mean -log p of the tokens of a text after the first, in nats.

        (Of an encoder: of masked tokens.) A text longer than the context is scored by windows.

        Raises:
            UserError: for a text of one token or none.
        """
        ids, length = self._ids(text), self._plan.task.length
        if len(ids) < 2:
            raise UserError("a text to score has two tokens or more")
        parts = [ids[i : i + length + 1] for i in range(0, len(ids) - 1, length)]
        sums = [self._of(torch.tensor([part])) * (len(part) - 1) for part in parts]
        return sum(sums) / (len(ids) - 1)

    def _of(self, window: Tensor) -> float:
        return nll(self.model, self._plan.task, window)

    def complete(self, prompt: str, n: int = 32, seed: int | None = None) -> str:
        """A text with n tokens more, the most probable ones, or drawn with a seed.

        Raises:
            UserError: for an empty prompt, or an encoder.
        """
        if self._plan.task.kind != "gpt2":
            raise UserError("an encoder completes nothing; see score")
        ids = self._ids(prompt)
        if not ids:
            raise UserError("a prompt has one token or more")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _ in range(n):
                seen = torch.tensor([ids[-self._plan.task.length :]])
                p = self.model(input_ids=seen).logits[0, -1].softmax(-1)
                drawn = p.argmax() if generator is None else p.multinomial(1, generator=generator)
                ids.append(int(drawn))
        return str(self.tokenizer.decode(ids))


def load(folder: Path) -> LanguageModel:
    """See :func:`papers.mst.load`."""
    run = Run.load(folder)
    plan = plan_of(run.config(Config))
    if plan.task.text == "openwebtext":
        tokenizer = public.tokenizer(GPT2)
    else:
        tokenizer = tokens.tokenizer(CORPORA[plan.task.text](), plan.task.vocabulary)
    return LanguageModel(model_from(run, plan), tokenizer, plan)
