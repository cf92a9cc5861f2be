"""Stand-ins for the published fragment list and proxy weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.gfn.fragments import SEHProxy

BLOCKS = {  # same keys and nesting as the published list; stems in its order
    "block_name": {"0": "c1ccccc1_0", "1": "CO_0", "2": "CO_1", "3": "O_0", "4": "c1cc[nH]c1_0"},
    "block_smi": {"0": "c1ccccc1", "1": "CO", "2": "CO", "3": "O", "4": "c1cn[nH]c1"},
    "block_r": {"0": [0, 1, 2, 3, 4, 5], "1": [0, 1], "2": [1, 0, 0, 0], "3": [0], "4": [3, 0, 1]},
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$PAPERS_DATA with tiny stand-ins."""
    folder = tmp_path / "data" / "seh"
    folder.mkdir(parents=True)
    (folder / "blocks_PDB_105.json").write_text(json.dumps(BLOCKS))
    torch.manual_seed(0)
    proxy = SEHProxy()
    arrays = {f"p{i:02d}": proxy.get_parameter(n).detach().numpy() for i, n in proxy.ORDER.items()}
    arrays |= {f"p{i:02d}": np.zeros(3, np.float32) for i in (12, 13, 14, 15)}
    arrays["p21"] = np.array([4.0], np.float32)
    np.savez(folder / "seh_proxy.npz", **arrays)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    return folder
