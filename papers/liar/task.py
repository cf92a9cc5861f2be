"""Tasks and settings: which model is pruned, how much of which parts, and where stages meet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError, choose
from papers.liar.criteria import CRITERIA
from papers.liar.sparse import WEIGHT_CRITERIA

PARTS = ("all", "heads", "ffn", "weights", "2to4")
GLUE = ("sst2", "mrpc", "qqp", "qnli", "mnli", "rte")
Data = Literal["code", "decoder", "glue", "squad", "wikitext"]


@dataclass(frozen=True)
class Setting:
    """What is pruned.

    Attributes:
        criterion: that scores units or weights.
        parts: all modules, heads or ffn only; single weights of all layers: any, or two of four.
        percent: that goes.
        everywhere: units are ranked over all layers instead of in each.
    """

    criterion: str
    parts: str
    percent: int
    everywhere: bool = False

    @property
    def name(self) -> str:
        """CRITERION-PARTS-PERCENT, with -global where units are ranked over all layers."""
        return f"{self.criterion}-{self.parts}-{self.percent}" + "-global" * self.everywhere

    @property
    def ratio(self) -> float:
        """Share that goes."""
        return self.percent / 100

    @property
    def of_weights(self) -> bool:
        """Single weights are masked; nothing becomes smaller."""
        return self.parts in ("weights", "2to4")


def setting_of(name: str) -> Setting:
    """The setting of that name.

    Raises:
        UserError: for what there is not.
    """
    found = re.fullmatch(r"([a-z]+)-([a-z0-9]+)-([0-9]{1,2})(-global)?", name)
    if found is None:
        raise UserError(f"'{name}' is no setting; write CRITERION-PARTS-PERCENT, e.g. flap-all-50")
    criterion, parts, percent, everywhere = found.groups()
    choose("part", parts, PARTS)
    setting = Setting(criterion, parts, int(percent), everywhere is not None)
    choose("criterion", criterion, WEIGHT_CRITERIA if setting.of_weights else CRITERIA)
    if parts == "2to4" and setting.percent != 50:
        raise UserError(f"two of four are 50 %: write {criterion}-2to4-50")
    return setting


@dataclass(frozen=True)
class Task:
    """A model with its data.

    Attributes:
        data: which texts and which evaluation.
        source: of published models and data: their names on the hub.
        settings: that are run unless others are named.
        texts, length: calibration.
        bias: whether projections without a bias get one.
        layers: the first so many only; 0: all.
    """

    data: Data
    source: tuple[str, str] = ("", "")
    settings: tuple[str, ...] = ("flap-all-50",)
    texts: int = 128
    length: int = 96
    bias: str = "own"
    layers: int = 0


ENCODER = (
    *("flap-all-50", "magnitude-all-50", "wanda-all-50", "random-all-50"),
    *("flap-heads-50", "flap-ffn-50", "flap-all-25", "flap-all-75"),
)
DECODER = ("flap-ffn-50", "magnitude-ffn-50", "flap-all-50")
PUBLISHED = ("flap-all-25", "flap-all-50", "magnitude-all-50", "fisher-all-50")

TASKS: dict[str, Task] = {
    "minilm": Task("code", settings=ENCODER),
    "minilm-2": Task("code", settings=("flap-all-50", "magnitude-ffn-50"), texts=16, layers=2),
    "llama": Task("decoder", settings=DECODER, length=128, bias="add"),
    **{
        f"glue-{name}": Task(
            "glue", (f"textattack/bert-base-uncased-{hub}", name), PUBLISHED, 2048, 128
        )
        for name, hub in zip(GLUE, ("SST-2", "MRPC", "QQP", "QNLI", "MNLI", "RTE"), strict=True)
    },
    "squad": Task(
        "squad", ("csarron/bert-base-uncased-squad-v1", "rajpurkar/squad"), PUBLISHED, 2048, 384
    ),
    "llama-7b": Task(
        "wikitext",
        ("huggyllama/llama-7b", "Salesforce/wikitext"),
        ("flap-all-20", "flap-all-50"),
        *(128, 2048, "add"),
    ),
}


def decoder_folder(cfg: Any) -> Path:
    """The decoder of a run's seed: SCALE/decoder/llama/llama/seed-S beside it, or as it says.

    Where the run is a cell of a grid, there is one folder more between it and the scale.
    """
    if cfg.decoder is not None:
        return Path(cfg.decoder)
    out = cfg.out.absolute()
    parts = ("decoder", "llama", "llama", f"seed-{cfg.seed}")
    places = [at.joinpath(*parts) for at in out.parents[3:6]]
    return next((found for found in places if found.is_dir()), places[0])


__all__ = ["GLUE", "PARTS", "TASKS", "Setting", "Task", "decoder_folder", "setting_of"]
