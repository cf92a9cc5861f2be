"""Tasks as enumerated DAGs whose complete objects are rows of their own (no stop action).

T1, T2: RNA strings of length 8, append-only (tree) or prepend/append (parallel edges kept).
T3: RNA strings of length 4 to 7 (tree). T4: a trie of 494 words (tree). T5: HyperGrid, on which
the theory does not hold. At paper scale: TFBind8 and QM9 strings from user files, RNA of length 14.
"""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError, choose
from common.gfn import rna
from common.gfn.dag import EnumeratedDAG, dag_from_children
from common.gfn.hypergrid import HyperGrid
from common.gfn.strings import StringEnv, digits

WORDS = Path(__file__).with_name("words.txt")
N_CHARACTERS = 10  # last characters in the input of T4; with 8, seven states look alike

ENUMERATED = (
    *("rna1-tree", "rna3-tree", "rna1-dag", "rna3-dag"),  # T1, T2
    "rna1-var",  # T3
    "words",  # T4
    *("tfbind8-tree", "tfbind8-dag", "qm9str-dag"),  # paper scale
)
LARGE = ("rna1-l14", "rna2-l14", "rna3-l14", "rna4-l14")  # paper scale, not enumerated
GRID = "grid"  # T5
TASKS = (*ENUMERATED, *LARGE, GRID)

STRINGS = ("rna1-tree", "rna3-tree", "rna1-dag", "rna3-dag")  # T1, T2
DAGS = ("rna1-dag", "rna3-dag")  # T2
RECTIFIED = ("words", "rna1-var")  # T4, T3: where the factor is no constant
SHORT = {  # in tables, figures and claims
    "rna1-tree": "T1 RNA1",
    "rna3-tree": "T1 RNA3",
    "rna1-dag": "T2 RNA1",
    "rna3-dag": "T2 RNA3",
    "rna1-var": "T3",
    "words": "T4",
}


@dataclass(frozen=True)
class Sizes:
    """How large the tasks of this project are; smaller for smoke and tests."""

    length: int = 8  # T1, T2: letters
    shortest: int = 4  # T3: letters from which one may stop
    longest: int = 7  # T3: letters at which one must
    words: int = 494  # T4: words (evenly spaced in the list)
    ndim: int = 2  # T5: D
    height: int = 8  # T5: H


def make_dag(task: str, sizes: Sizes | None = None) -> EnumeratedDAG:
    """The DAG of a task.

    Raises:
        UserError: if the task has no such DAG, or needs a file that is not there.
    """
    choose("task", task, (*ENUMERATED, GRID))
    sizes = sizes or Sizes()
    if task == GRID:
        return with_terminal_copies(HyperGrid(sizes.ndim, sizes.height, "standard-1").dag())
    if task == "words":
        return word_dag(read_words(sizes.words))
    if task == "rna1-var":
        return variable_length_dag(sizes.shortest, sizes.longest)
    name, shape = task.split("-")
    if name == "tfbind8":
        values = read_table("tfbind8/tfbind8.csv", "ACGT", 8)
        return string_dag(shape, 4, 8, rna.log_reward(values, 3.0))
    if name == "qm9str":
        values = read_table("qm9str/gap.csv", "ABCDEFGHIJK", 5)
        return string_dag(shape, 11, 5, rna.log_reward(values, 5.0, maximum=100.0))
    fitness = rna.fitness_table(name.upper(), sizes.length)
    return string_dag(shape, 4, sizes.length, rna.log_reward(fitness, 8.0))


def string_dag(shape: str, n_letters: int, length: int, log_reward: Tensor) -> EnumeratedDAG:
    """T1 ("tree": append) or T2 ("dag": prepend/append). log_reward: [V^L], first letter first."""

    def look_up(strings: Tensor) -> Tensor:
        radix = n_letters ** torch.arange(length - 1, -1, -1)
        return log_reward[(strings * radix).sum(-1)]

    mode = "append" if shape == "tree" else "prepend_append"
    return StringEnv(mode, length, n_letters, look_up).dag()  # type: ignore[arg-type]


def variable_length_dag(shortest: int, longest: int) -> EnumeratedDAG:
    """T3: actions 0..3 append a letter, action 4 stops from ``shortest`` letters on.

    A string of ``longest`` letters is its own terminal row: the only action there, stopping, would
    change neither g (A = B = 1) nor the sampler. Reward: fitness at the own length, beta 4.
    """
    first = [(4**t - 1) // 3 for t in range(longest + 2)]  # row of the first string of t letters
    n_strings = first[-1]
    n = n_strings + first[longest] - first[shortest]  # terminal copies at the end
    children = torch.full((n, 5), -1)
    level = torch.zeros(n, dtype=torch.long)
    fitness = torch.full((n,), math.nan, dtype=torch.float64)
    active = torch.full((n, longest + 1), 4)
    for t in range(longest + 1):
        rows = torch.arange(first[t], first[t + 1])
        level[rows] = t
        active[rows, :t] = digits(4**t, 4, t)
        if t < longest:
            children[rows, :4] = (first[t + 1] + 4 * (rows - first[t])).unsqueeze(
                -1
            ) + torch.arange(4)
        if t >= shortest:
            copies = rows
            if t < longest:
                copies = rows + n_strings - first[shortest]
                children[rows, 4] = copies
                level[copies] = t + 1
                active[copies] = active[rows]
            fitness[copies] = torch.as_tensor(rna.fitness_table("RNA1", t))
    ended = torch.isfinite(fitness)
    active[:, :longest] += 5 * torch.arange(longest)
    active[:, longest] = 5 * longest + ended.long()
    log_reward = torch.full_like(fitness, -torch.inf)
    log_reward[ended] = rna.log_reward(fitness[ended], 4.0)
    return dag_from_children(
        children, log_reward=log_reward, level=level, active=active, input_dim=5 * longest + 2
    )


def read_words(n: int | None = None) -> list[str]:
    """The words of T4 (``words.txt``: Python 3.11's keywords, built-ins and standard modules)."""
    words = WORDS.read_text().split()
    if n is None or n >= len(words):
        return words
    return [words[i * len(words) // n] for i in range(n)]


def word_dag(words: list[str]) -> EnumeratedDAG:
    """T4: the trie of the words; one action per character, the last one ends the word.

    R = 1 + (number of distinct characters)^2. Input: the last ten characters, the length, ended.
    """
    letters = sorted(set("".join(words)))
    number = {c: i for i, c in enumerate(letters)}
    prefixes = sorted({w[:i] for w in words for i in range(len(w) + 1)}, key=lambda p: (len(p), p))
    row = {p: i for i, p in enumerate(prefixes)}
    n_inner, n = len(prefixes), len(prefixes) + len(words)
    longest = max(map(len, words))
    children = torch.full((n, len(letters) + 1), -1)
    reward = torch.zeros(n, dtype=torch.float64)
    level = torch.tensor([len(p) for p in prefixes] + [len(w) + 1 for w in words])
    for p in prefixes[1:]:
        children[row[p[:-1]], number[p[-1]]] = row[p]
    for i, w in enumerate(words):
        children[row[w], len(letters)] = n_inner + i
        reward[n_inner + i] = 1 + len(set(w)) ** 2
    block = len(letters) + 1
    active = torch.empty((n, N_CHARACTERS + 2), dtype=torch.long)
    for i, p in enumerate([*prefixes, *words]):
        last = [number[c] for c in p[-N_CHARACTERS:]]
        last = [len(letters)] * (N_CHARACTERS - len(last)) + last
        places = [k * block + c for k, c in enumerate(last)]
        offset = N_CHARACTERS * block
        active[i] = torch.tensor([*places, offset + len(p), offset + longest + 1 + (i >= n_inner)])
    return dag_from_children(
        children,
        log_reward=reward.log(),
        level=level,
        active=active,
        input_dim=N_CHARACTERS * block + longest + 3,
    )


def names_of(task: str, sizes: Sizes, dag: EnumeratedDAG, rows: Tensor) -> list[str]:
    """Objects as text. Row numbers [n] of complete objects -> n strings."""
    if task == "words":
        words = read_words(sizes.words)
        return [words[row - (dag.n_states - len(words))] for row in rows.tolist()]
    letters = {"tfbind8": "ACGT", "qm9str": "ABCDEFGHIJK"}.get(task.split("-")[0], rna.LETTERS)
    assert dag.active is not None
    places = dag.active[rows]
    if task == "rna1-var":
        places = places[:, :-1]  # the last input says whether the string has ended
    numbers = places % (len(letters) + 1)  # the last of each place: empty
    return ["".join(letters[i] for i in row if i < len(letters)) for row in numbers.tolist()]


def with_terminal_copies(dag: EnumeratedDAG) -> EnumeratedDAG:
    """The same DAG with a terminal row for every object instead of a stop action."""
    assert dag.stop is not None
    objects = torch.isfinite(dag.log_reward).nonzero().squeeze(-1)
    n = dag.n_states
    children = torch.cat([dag.children, torch.full((len(objects), dag.n_actions), -1)])
    children[objects, dag.stop] = n + torch.arange(len(objects))
    inner = torch.full((n,), -torch.inf, dtype=torch.float64)
    return dag_from_children(
        children,
        log_reward=torch.cat([inner, dag.log_reward[objects]]),
        level=torch.cat([dag.level, dag.level[objects] + 1]),
        source=dag.source,
    )


def modes(dag: EnumeratedDAG, share: float = 0.005) -> Tensor:
    """The best ``share`` of the objects, ties included. [N] bool."""
    objects = torch.isfinite(dag.log_reward)
    k = max(1, math.ceil(share * int(objects.sum())))
    return dag.log_reward >= dag.log_reward[objects].topk(k).values[-1]


def accuracy(p_terminal: Tensor, reward: Tensor) -> Tensor:
    """100 min(E_P[R] / E_p*[R], 1). Blind to collapse on objects of average reward."""
    expected = (p_terminal * reward).sum(-1)
    return 100 * (expected / (reward.square().sum() / reward.sum())).clamp(max=1)


# -- paper scale --------------------------------------------------------------------------------


def read_table(name: str, letters: str, length: int) -> Tensor:
    """A user-supplied table of all strings: lines "string,value". [V^L], first letter first.

    Raises:
        UserError: says what is missing or wrong.
    """
    what = (
        f"lines 'string,value' for all {len(letters) ** length} strings of {length} letters of "
        f"{letters}; see papers/rpe/NOTES.md for what to obtain"
    )
    root = os.environ.get("PAPERS_DATA")
    if not root:
        raise UserError(f"set PAPERS_DATA to a folder with {name}: {what}")
    path = Path(root) / name
    if not path.is_file():
        raise UserError(f"{path} is missing: {what}")
    number = {c: i for i, c in enumerate(letters)}
    values = torch.full((len(letters) ** length,), math.nan, dtype=torch.float64)
    with path.open(newline="") as file:
        for line, record in enumerate(csv.reader(file), 1):
            try:
                string, value = record
                if len(string) != length:
                    raise ValueError
                place = 0
                for c in string:
                    place = place * len(letters) + number[c]
                values[place] = float(value)
            except (ValueError, KeyError):
                if line == 1:
                    continue  # a header
                raise UserError(f"{path}, line {line}: {record}; wanted are {what}") from None
    if not bool(torch.isfinite(values).all()):
        lacking = int((~torch.isfinite(values)).sum())
        raise UserError(f"{path} lacks {lacking} strings or numbers; wanted are {what}")
    return values
