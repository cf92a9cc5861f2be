"""The folder that fine-tuning starts from: U's weights as a diffusers UNet2DModel.

Train U from nothing, then write its averaged weights and its settings where the others look:

    python -m papers.qcsgm.train --method u --task cifar10 --no-pretrained --steps 600000 \\
        --device cuda --out runs/ncsnpp-cifar10
    python -m papers.qcsgm.pretrain --run runs/ncsnpp-cifar10
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from common.cli import run_cli
from common.errors import UserError
from common.run import Run
from papers.qcsgm.config import Config
from papers.qcsgm.networks import NCSNpp


@dataclass
class ExportConfig:
    """Write the weights of a finished run of U as a folder to start from."""

    run: Path  # run directory of `train --method u --no-pretrained` on an image set
    out: Path | None = None  # folder; default: $PAPERS_DATA/qcsgm/ncsnpp-TASK


def export(cfg: ExportConfig) -> Path:
    """Write config.json and safetensors; the folder.

    Raises:
        UserError: if the run is not one of U on images, or something is there already.
    """
    run = Run.load(cfg.run)
    trained, final = run.config(Config), run.final()
    if not final.get("settings") or trained.model.name != "u":
        raise UserError(f"{cfg.run} is no run of U on an image set; see `--help`")
    root = os.environ.get("PAPERS_DATA")
    if cfg.out is None and not root:
        raise UserError("set PAPERS_DATA, or say --out")
    folder = cfg.out or Path(str(root)) / "qcsgm" / f"ncsnpp-{trained.task}"
    if folder.exists():
        raise UserError(f"{folder} is there already; remove it or choose another --out")
    net = NCSNpp(settings=final["settings"])
    net.load_state_dict(final["net"])
    net.unet.save_pretrained(folder, safe_serialization=True)
    print(f"wrote {folder}")
    return folder


if __name__ == "__main__":
    run_cli(export, ExportConfig)
