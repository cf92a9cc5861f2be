"""What is compared: selections of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.methods import Method, Methods
from papers.disf import baselines, method
from papers.disf.method import Ask, Files, Indices


def nothing(files: Files, ask: Ask) -> Indices:
    """No file: the model stays as it was made."""
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Selection(Method):
    """How files are chosen.

    Attributes:
        select: (files, ask) -> sorted numbers.
        targeted: it selects towards a domain.
        local: it looks at one group of files at a time, so that groups can be worked on anywhere.
    """

    select: Callable[[Files, Ask], Indices] = nothing
    targeted: bool = False
    local: bool = True


METHODS = Methods(
    Selection("disf", "DiSF", "method", method.disf),
    Selection("disf-farthest", "DiSF, farthest second", "variant", method.disf_farthest),
    Selection("disf-copies", "DiSF, copies left in", "variant", method.disf_with_copies),
    Selection("disf-once", "DiSF, standardised once", "ablation", baselines.disf_once),
    Selection("uniform", "uniform", "baseline", baselines.uniform),
    Selection("dsir", "DSIR", "baseline", baselines.dsir, True, False),
    Selection("d4", "D4", "baseline", baselines.d4, local=False),
    Selection("facility", "facility location", "baseline", baselines.facility),
    Selection("kcenter", "farthest first", "baseline", baselines.kcenter),
    Selection("full", "all files", "baseline", baselines.full, local=False),
    Selection("untrained", "untrained", "reference", local=False),
)

__all__ = ["METHODS", "Selection"]
