"""Fragment-tree molecules (the sEH task of the first GFlowNet release), batched over trajectories.

A molecule is a tree of at most K fragments. State: integers [..., K, 3], per slot (fragment, slot
of the fragment it hangs on, stem number used there); empty slots hold (n_fragments, -1, -1), the
root (b, -1, -1). A fragment b brings stems, the atoms ``block_r[b]``; a new fragment attaches by
its stem 0. Only the root keeps its own stem 0 open. Action = (slot * R + stem) * n_fragments + new
fragment; the last action stops. A full molecule, or one without open stems, ends by itself (its
forward mask is all False).

The reward needs two files that this project does not ship; see ``load_fragments`` and
``load_proxy``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError

WHAT_TO_OBTAIN = (
    "obtain it from the first GFlowNet release (GFNOrg/gflownet, folder mols/data) and put it into "
    "$PAPERS_DATA/seh/"
)


def data_file(name: str) -> Path:
    """Path of a user-supplied file in $PAPERS_DATA/seh.

    Raises:
        UserError: says what to obtain and where to put it.
    """
    root = os.environ.get("PAPERS_DATA")
    if not root:
        raise UserError(
            f"the molecule task needs {name}: {WHAT_TO_OBTAIN}, then set PAPERS_DATA to that folder"
        )
    path = Path(root) / "seh" / name
    if not path.is_file():
        hint = (
            " (the release has it as pretrained_proxy/best_params.pkl.gz, a list of 22 arrays: "
            "save them in that order with numpy.savez as p00 ... p21)"
            if name.endswith(".npz")
            else ""
        )
        raise UserError(f"{path} is missing: {WHAT_TO_OBTAIN}{hint}")
    return path


@dataclass(frozen=True)
class Fragments:
    """A fragment library: SMILES and stem atoms, one entry per way of attaching."""

    smiles: tuple[str, ...]
    stems: tuple[tuple[int, ...], ...]  # block_r: atom indices; the first one attaches

    @property
    def n(self) -> int:
        """Number of entries."""
        return len(self.smiles)


def load_fragments(path: Path) -> Fragments:
    """Reads {"block_smi": {"0": ...}, "block_r": {"0": [...]}} (also lists instead of maps).

    Raises:
        UserError: if the file has another format or an unreadable SMILES.
    """
    from rdkit import Chem

    try:
        table = json.loads(path.read_text(encoding="utf-8"))

        def column(name: str) -> list[Any]:
            values = table[name]
            if isinstance(values, dict):
                return [values[str(i)] for i in range(len(values))]
            return list(values)

        smiles = tuple(str(s) for s in column("block_smi"))
        stems = tuple(tuple(int(a) for a in r) for r in column("block_r"))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is no fragment list: a JSON object with 'block_smi' and 'block_r' is expected"
        ) from error
    for smi, atoms in zip(smiles, stems, strict=True):
        mol = Chem.MolFromSmiles(smi)
        if mol is None or not atoms or max(atoms) >= mol.GetNumAtoms():
            raise UserError(f"{path}: fragment {smi!r} with stems {list(atoms)} is not valid")
    return Fragments(smiles, stems)


class FragmentEnv:
    """The MDP; see the module's docstring.

    P_B uniform over the fragments that could be the last.
    """

    ends_by_itself = True  # when full or without open stems

    def __init__(
        self,
        fragments: Fragments,
        *,
        max_blocks: int = 8,
        min_blocks: int = 2,
        device: torch.device | str = "cpu",
    ) -> None:
        from rdkit import Chem

        self.fragments = fragments
        self.max_blocks, self.min_blocks = max_blocks, min_blocks
        self.device = torch.device(device)
        self.n_blocks = fragments.n
        self.n_stems = max(len(s) for s in fragments.stems)  # R
        self.n_actions = max_blocks * self.n_stems * self.n_blocks + 1
        self.n_backward = max_blocks
        self.stop = self.n_actions - 1
        self.max_length = max_blocks + 1
        counts = [len(s) for s in fragments.stems] + [0]
        self._stem_count = torch.tensor(counts, device=self.device)
        atoms = torch.zeros(self.n_blocks + 1, self.n_stems, dtype=torch.long)
        for b, stem in enumerate(fragments.stems):
            atoms[b, : len(stem)] = torch.tensor(stem)
        unique = sorted(set(fragments.smiles))
        self.true_block = torch.tensor(
            [unique.index(s) for s in fragments.smiles] + [len(unique)], device=self.device
        )
        self.n_true_blocks = len(unique)
        widest = [
            max(max(r) for s, r in zip(fragments.smiles, fragments.stems, strict=True) if s == u)
            for u in unique
        ]
        offset = np.concatenate([[0], np.cumsum([w + 1 for w in widest])])
        self.n_stem_types = int(offset[-1])
        first = torch.tensor(offset[:-1].tolist() + [0])
        types = first[self.true_block.cpu()].unsqueeze(-1) + atoms
        self.stem_type = types.to(self.device)  # [n_blocks+1, R]
        self._attaching = _attaching_entries(fragments, self.n_stems).to(self.device)
        self._molecules = [Chem.MolFromSmiles(s) for s in fragments.smiles]

    def initial(self, batch_shape: tuple[int, ...]) -> Tensor:
        """The empty molecule. [*batch, K, 3]."""
        empty = torch.tensor([self.n_blocks, -1, -1], device=self.device)
        return empty.expand(*batch_shape, self.max_blocks, 3).clone()

    def n_placed(self, states: Tensor) -> Tensor:
        """Number of fragments. [...]."""
        return (states[..., 0] != self.n_blocks).sum(-1)

    def open_stems(self, states: Tensor) -> Tensor:
        """[..., K, R] bool: stems to which a fragment can be attached (empty: slot 0, stem 0)."""
        block, parent, used = states.unbind(-1)
        stem = torch.arange(self.n_stems, device=states.device)
        slot = torch.arange(self.max_blocks, device=states.device)
        is_open = stem < self._stem_count[block].unsqueeze(-1)
        is_open &= (stem > 0) | (slot == 0).unsqueeze(-1)
        hung = (parent.unsqueeze(-2) == slot.unsqueeze(-1)).unsqueeze(-2)  # [..., K, 1, K child]
        taken = (hung & (used.unsqueeze(-2).unsqueeze(-2) == stem.unsqueeze(-1))).any(-1)
        placed = self.n_placed(states)
        is_open &= ~taken & (placed < self.max_blocks).unsqueeze(-1).unsqueeze(-1)
        first = torch.zeros_like(is_open)
        first[..., 0, 0] = True
        return torch.where((placed == 0).unsqueeze(-1).unsqueeze(-1), first, is_open)

    def forward_mask(self, states: Tensor) -> Tensor:
        """[..., A] bool; all False where the molecule has ended by itself."""
        stems = self.open_stems(states).flatten(-2)
        add = stems.unsqueeze(-1).expand(*stems.shape, self.n_blocks).flatten(-2)
        can_stop = stems.any(-1) & (self.n_placed(states) >= self.min_blocks)
        return torch.cat([add, can_stop.unsqueeze(-1)], -1)

    def leaves(self, states: Tensor) -> Tensor:
        """[..., K] bool: fragments that may have been added last (degree one, or the only one)."""
        block, parent, _ = states.unbind(-1)
        slot = torch.arange(self.max_blocks, device=states.device)
        placed = block != self.n_blocks
        children = (parent.unsqueeze(-2) == slot.unsqueeze(-1)).sum(-1)
        degree = children + (parent >= 0)
        alone = (self.n_placed(states) == 1).unsqueeze(-1) & (slot == 0)
        return (placed & (degree == 1)) | alone

    def backward_mask(self, states: Tensor) -> Tensor:
        """In-edges, one per removable fragment. [..., K]."""
        return self.leaves(states)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """States after the actions [...]; stopping leaves the molecule as it is."""
        stopping = actions == self.stop
        safe = torch.where(stopping, torch.zeros_like(actions), actions)
        block = safe % self.n_blocks
        stem = safe // self.n_blocks % self.n_stems
        slot = safe // (self.n_blocks * self.n_stems)
        placed = self.n_placed(states)
        root = placed == 0
        minus = torch.full_like(block, -1)
        new = torch.stack(
            [block, torch.where(root, minus, slot), torch.where(root, minus, stem)], -1
        )
        at = placed.clamp(max=self.max_blocks - 1).view(*placed.shape, 1, 1)
        added = states.scatter(-2, at.expand(*placed.shape, 1, 3), new.unsqueeze(-2))
        full = (placed >= self.max_blocks) | stopping
        return torch.where(full.unsqueeze(-1).unsqueeze(-1), states, added)

    def parents(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All parents of molecules: one per removable fragment (see ``leaves``).

        Slots are filled in the order of addition, and a fragment's slot is above its parent's.
        Removing slot j > 0 closes the gap. Removing the root (slot 0, if one fragment hangs on it)
        makes that fragment the root, whose stem 0 the old root is then added to; it must be
        attached by the atom that held the bond, so the action is another entry of the library: the
        same SMILES with that atom first. Without such an entry the MDP has no such edge.

        Args:
            states: [n, K, 3].

        Returns:
            parents [n, K, K, 3], which of them exist [n, K], the actions that lead back [n, K].
        """
        n, n_slots, _ = states.shape
        block, parent, used = states.unbind(-1)
        slot = torch.arange(n_slots, device=states.device)
        exists = self.leaves(states).clone()
        removed = slot.view(1, -1, 1)  # j, against the slots of the result
        source = (slot + (slot >= removed)).expand(n, -1, -1)  # [n, K, K] which slot moves here
        inside = source < n_slots
        index = source.clamp(max=n_slots - 1).unsqueeze(-1).expand(-1, -1, -1, 3)
        moved = states.unsqueeze(1).expand(-1, n_slots, -1, -1).gather(2, index)
        empty = torch.tensor([self.n_blocks, -1, -1], device=states.device)
        moved = torch.where(inside.unsqueeze(-1), moved, empty)
        above = moved[..., 1]
        moved[..., 1] = torch.where(above > removed, above - 1, above)
        # the root went: what was in slot 1 is the root now
        new_root = moved[:, 0, 0, 0]
        nothing = torch.full_like(new_root, -1)
        moved[:, 0, 0] = torch.stack([new_root, nothing, nothing], -1)
        where = torch.where(slot == 0, torch.zeros_like(parent), parent.clamp(min=0))
        stem = torch.where(slot == 0, torch.zeros_like(used), used.clamp(min=0))
        new_block = block.clamp(max=self.n_blocks - 1).clone()
        several = self.n_placed(states) > 1
        # the entry with the root's SMILES that attaches by the atom at which slot 1 hangs
        attaching = self._attaching[new_block[:, 0], used[:, 1].clamp(min=0)]
        new_block[:, 0] = torch.where(several, attaching.clamp(min=0), new_block[:, 0])
        exists[:, 0] &= ~several | (attaching >= 0)
        return moved, exists, (where * self.n_stems + stem) * self.n_blocks + new_block

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Removes fragments; not needed by the objectives with uniform P_B."""
        raise TypeError("the fragment MDP is sampled forwards only")

    def log_reward(self, states: Tensor) -> Tensor:
        """The reward is a proxy's: see ``ProxyReward``."""
        raise TypeError("the reward of a fragment state is a proxy's: use ProxyReward")

    def molecule(self, state: Tensor) -> Any:
        """RDKit molecule of one state [K, 3]."""
        from rdkit import Chem

        rows = [row for row in state.tolist() if row[0] != self.n_blocks]
        parts = [self._molecules[b] for b, _, _ in rows]
        start = np.concatenate([[0], np.cumsum([p.GetNumAtoms() for p in parts])])
        joined = parts[0]
        for part in parts[1:]:
            joined = Chem.CombineMols(joined, part)
        editable = Chem.RWMol(joined)
        bonds = []
        for j, (b, parent, stem) in enumerate(rows):
            if parent < 0:
                continue
            a = int(start[parent]) + self.fragments.stems[rows[parent][0]][stem]
            c = int(start[j]) + self.fragments.stems[b][0]
            bonds.append((a, c))
            editable.AddBond(a, c, Chem.BondType.SINGLE)
        for bond in bonds:  # a bond replaces an explicit hydrogen where there is one
            for index in bond:
                atom = editable.GetAtomWithIdx(index)
                if atom.GetNumExplicitHs() > 0:
                    atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
        mol = editable.GetMol()
        Chem.SanitizeMol(mol)
        return mol


def _attaching_entries(fragments: Fragments, n_stems: int) -> Tensor:
    """[n_blocks, R]: the entry of the same SMILES whose first stem is that atom, or -1."""
    first: dict[tuple[str, int], int] = {}
    for b, (smi, stems) in enumerate(zip(fragments.smiles, fragments.stems, strict=True)):
        first.setdefault((smi, stems[0]), b)
    table = torch.full((fragments.n, n_stems), -1)
    for b, (smi, stems) in enumerate(zip(fragments.smiles, fragments.stems, strict=True)):
        for r, atom in enumerate(stems):
            table[b, r] = first.get((smi, atom), -1)
    return table


def mean_similarity(smiles: Sequence[str]) -> float:
    """Mean pairwise Tanimoto similarity on RDKit's fingerprints (nan below two molecules)."""
    from rdkit import Chem
    from rdkit.DataStructs import BulkTanimotoSimilarity

    prints = [Chem.RDKFingerprint(Chem.MolFromSmiles(s)) for s in smiles]
    pairs: list[float] = []
    for i in range(1, len(prints)):
        pairs += BulkTanimotoSimilarity(prints[i], prints[:i])
    return sum(pairs) / len(pairs) if pairs else float("nan")


def atom_graph(mol: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Atom features [n, 71], directed bonds [2, m], one-hot bond types [m, 4] of the sEH proxy."""
    from rdkit.Chem.rdchem import BondType, HybridizationType

    element = {"H": 0, "C": 1, "N": 2, "O": 3, "F": 4}
    bond_type = {
        BondType.SINGLE: 0,
        BondType.DOUBLE: 1,
        BondType.TRIPLE: 2,
        BondType.AROMATIC: 3,
    }
    x = torch.zeros(mol.GetNumAtoms(), 71)
    for i, atom in enumerate(mol.GetAtoms()):
        hybrid = atom.GetHybridization()
        x[i, element.get(atom.GetSymbol(), 5)] = 1
        x[i, 9] = float(atom.GetIsAromatic())
        x[i, 10] = float(hybrid == HybridizationType.SP)
        x[i, 11] = float(hybrid == HybridizationType.SP2)
        x[i, 12] = float(hybrid == HybridizationType.SP3)
        x[i, 13] = atom.GetTotalNumHs(includeNeighbors=True)
        x[i, 14 + atom.GetAtomicNum() - 1] = 1
    ends, kinds = [], []
    for bond in mol.GetBonds():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        kind = bond_type.get(bond.GetBondType(), 0)
        ends += [(a, b), (b, a)]
        kinds += [kind, kind]
    if not ends:  # the release gives a lone atom one featureless self-loop
        return x, torch.zeros(2, 1, dtype=torch.long), torch.zeros(1, 4)
    one_hot = nn.functional.one_hot(torch.tensor(kinds), 4).float()
    return x, torch.tensor(ends).T.contiguous(), one_hot


class SEHProxy(nn.Module):
    """The release's atom-graph MPNN (12 rounds, width 64, Set2Set), in plain PyTorch.

    The stored root weight of the convolution enters as ``x @ W.T``, as the authors' code (and most
    that followed) maps it; the file's order suggests that it was trained as ``x @ W``.
    """

    def __init__(self, width: int = 64, n_rounds: int = 12) -> None:
        super().__init__()
        self.n_rounds, self.width = n_rounds, width
        self.lin0 = nn.Linear(71, width)
        self.root = nn.Linear(width, width)
        self.edge1 = nn.Linear(4, 128)
        self.edge2 = nn.Linear(128, width * width)
        self.gru = nn.GRUCell(width, width)
        self.lstm = nn.LSTMCell(2 * width, width)
        self.out = nn.Linear(2 * width, 1)

    #: position in the release's list of arrays -> parameter here (12-15 are not used by the score)
    ORDER: ClassVar[dict[int, str]] = {
        0: "lin0.weight",
        1: "lin0.bias",
        2: "root.weight",
        3: "root.bias",
        4: "edge1.weight",
        5: "edge1.bias",
        6: "edge2.weight",
        7: "edge2.bias",
        8: "gru.weight_ih",
        9: "gru.weight_hh",
        10: "gru.bias_ih",
        11: "gru.bias_hh",
        16: "lstm.weight_ih",
        17: "lstm.weight_hh",
        18: "lstm.bias_ih",
        19: "lstm.bias_hh",
        20: "out.weight",
        21: "out.bias",
    }

    def forward(self, graphs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Scores of molecules given as ``atom_graph``s. [n]."""
        act = nn.functional.leaky_relu
        sizes = torch.tensor([g[0].shape[0] for g in graphs])
        start = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)[:-1]])
        device = self.lin0.weight.device
        x = torch.cat([g[0] for g in graphs]).to(device)
        edges = torch.cat([g[1] + s for g, s in zip(graphs, start, strict=True)], 1).to(device)
        kinds = torch.cat([g[2] for g in graphs]).to(device)
        owner = torch.repeat_interleave(torch.arange(len(graphs)), sizes).to(device)
        out = h = act(self.lin0(x))
        weight = self.edge2(act(self.edge1(kinds))).view(-1, self.width, self.width)
        degree = torch.zeros(x.shape[0], 1, device=device)
        degree.index_add_(0, edges[1], torch.ones(edges.shape[1], 1, device=device))
        for _ in range(self.n_rounds):
            message = torch.bmm(out[edges[0]].unsqueeze(1), weight).squeeze(1)
            pooled = torch.zeros_like(out).index_add(0, edges[1], message) / degree.clamp(min=1)
            h = self.gru(act(pooled + self.root(out)), h)
            out = h
        n = len(graphs)
        q_star = torch.zeros(n, 2 * self.width, device=device)
        hidden = cell = torch.zeros(n, self.width, device=device)
        for _ in range(3):  # Set2Set
            hidden, cell = self.lstm(q_star, (hidden, cell))
            energy = (out * hidden[owner]).sum(-1)
            top = torch.full((n,), -torch.inf, device=device).scatter_reduce(
                0, owner, energy, "amax"
            )
            weights = (energy - top[owner]).exp()
            total = torch.zeros(n, device=device).index_add(0, owner, weights)
            read = torch.zeros(n, self.width, device=device).index_add(
                0, owner, (weights / total[owner]).unsqueeze(-1) * out
            )
            q_star = torch.cat([hidden, read], -1)
        return self.out(q_star).squeeze(-1)


def load_proxy(path: Path) -> SEHProxy:
    """Reads the 22 arrays p00 ... p21 from an .npz file (never a pickle: loading executes no code).

    Raises:
        UserError: if an array is missing or has another shape.
    """
    proxy = SEHProxy()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for position, name in SEHProxy.ORDER.items():
                parameter = proxy.get_parameter(name)
                value = torch.tensor(np.asarray(arrays[f"p{position:02d}"], dtype=np.float32))
                if value.shape != parameter.shape:
                    raise UserError(
                        f"{path}: array p{position:02d} has shape {tuple(value.shape)}, "
                        f"{tuple(parameter.shape)} is expected ({name})"
                    )
                parameter.data.copy_(value)
    except (KeyError, ValueError, OSError) as error:
        raise UserError(f"{path} is no proxy file: arrays p00 ... p21 are expected") from error
    return proxy.eval().requires_grad_(False)


class ProxyReward:
    """R = (max(score, R_min) / norm)^exponent, cached by canonical SMILES; counts its calls."""

    def __init__(
        self,
        env: FragmentEnv,
        proxy: SEHProxy,
        *,
        exponent: float = 4.0,
        r_min: float = 0.1,
        norm: float = 8.0,
    ) -> None:
        self.env, self.proxy = env, proxy
        self.exponent, self.r_min, self.norm = exponent, r_min, norm
        self.cache: dict[str, float] = {}
        self.calls = 0

    def __call__(self, states: Tensor) -> tuple[Tensor, list[str]]:
        """States [n, K, 3] -> (proxy scores [n], SMILES)."""
        from rdkit import Chem

        molecules = [self.env.molecule(state) for state in states.cpu()]
        names = [Chem.MolToSmiles(m) for m in molecules]
        new = {s: m for s, m in zip(names, molecules, strict=True) if s not in self.cache}
        if new:
            with torch.no_grad():
                scores = self.proxy([atom_graph(m) for m in new.values()]).tolist()
            self.cache.update(zip(new, scores, strict=True))
            self.calls += len(new)
        return torch.tensor([self.cache[s] for s in names], device=states.device), names

    def log_reward(self, scores: Tensor) -> Tensor:
        """log R of proxy scores."""
        return self.exponent * (scores.clamp(min=self.r_min) / self.norm).log()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the scores known, without which a resumed run asks again."""
        scores = torch.tensor(list(self.cache.values()), dtype=torch.float64)
        return {"calls": self.calls, "known": list(self.cache), "scores": scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Sets what ``state_dict`` gave."""
        self.calls = state["calls"]
        self.cache = dict(zip(state["known"], state["scores"].tolist(), strict=True))
