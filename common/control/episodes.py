"""Episodes on disk in Minari's HDF5 format: written by Minari, read with h5py, cached by content.

Reading goes past ``minari.load_dataset``, which may rebuild an environment from a specification
found in the file; here a file is arrays and JSON and nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import cache_root, find_data, locked, read_json, sha256, write_json

Floats = NDArray[np.float32]
MAIN_FILE = "main_data.hdf5"
METADATA_FILE = "metadata.json"
CHECKSUMS_FILE = "checksums.json"


@dataclass
class Episode:
    """One episode of T steps."""

    observations: Floats  # [T + 1, ...]
    actions: Floats  # [T, d]
    rewards: Floats  # [T]
    terminations: NDArray[np.bool_]  # [T] a true end: nothing to bootstrap from
    truncations: NDArray[np.bool_]  # [T] the time limit: bootstrap
    infos: dict[str, NDArray[Any]] = field(default_factory=dict)  # name -> [T or T + 1, ...]

    def __len__(self) -> int:
        return len(self.actions)


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """Installed versions of packages, for metadata and hashes."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def config_hash(config: Mapping[str, Any]) -> str:
    """The first 12 hexadecimal digits of SHA-256 over the canonical JSON of ``config``."""
    return sha256(json.dumps(config, sort_keys=True, allow_nan=False).encode())[:12]


def write_minari(
    folder: Path, dataset_id: str, episodes: Sequence[Episode], metadata: Mapping[str, Any]
) -> None:
    """Write a Minari data set whose files lie in ``folder``/data.

    ``minari.load_dataset(dataset_id)`` finds it if ``folder`` is ``$MINARI_DATASETS_PATH``/id.

    Args:
        folder: a folder that has no ``data`` in it yet; made if need be.
        dataset_id: ``namespace/…/name-v0``.
        episodes: at least one.
        metadata: JSON values that Minari's ``metadata.json`` carries beside its own.
    """
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    def box(values: Sequence[Floats], low: float, high: float) -> Box:
        return Box(low, high, shape=values[0].shape[1:], dtype=np.float32)

    data = folder / "data"
    data.mkdir(parents=True)
    storage = MinariStorage.new(
        data,
        observation_space=box([e.observations for e in episodes], -np.inf, np.inf),
        action_space=box([e.actions for e in episodes], -1.0, 1.0),
        data_format="hdf5",
    )
    storage.update_metadata(
        {"dataset_id": dataset_id, "minari_version": version("minari"), **metadata}
    )
    storage.update_episodes(
        EpisodeBuffer(
            observations=np.asarray(e.observations, np.float32),  # type: ignore[arg-type]
            actions=np.asarray(e.actions, np.float32),  # type: ignore[arg-type]
            rewards=list(np.asarray(e.rewards, np.float32)),
            terminations=list(e.terminations),
            truncations=list(e.truncations),
            infos={name: np.asarray(value) for name, value in e.infos.items()},
        )
        for e in episodes
    )


def read_minari(folder: Path, parts: Sequence[str] = ()) -> tuple[list[Episode], dict[str, Any]]:
    """Read the episodes and the metadata of a Minari data set kept as HDF5 in ``folder``/data.

    Args:
        folder: that holds ``data``.
        parts: of observations that come in parts (mazes, kitchens), put together in this order.

    Raises:
        UserError: if it is not there, damaged, kept in another format than HDF5, or has other
            parts.
    """
    import h5py

    data = folder / "data"
    if not (data / METADATA_FILE).is_file() or not (data / MAIN_FILE).is_file():
        raise UserError(f"{folder} is no Minari data set in HDF5 ({MAIN_FILE}, {METADATA_FILE})")
    metadata = read_json(data / METADATA_FILE)
    if metadata.get("data_format", "hdf5") != "hdf5":
        raise UserError(f"{folder} is kept as {metadata['data_format']}; only hdf5 can be read")
    episodes = []
    try:
        with h5py.File(data / MAIN_FILE, "r") as file:
            names = [name for name in file if re.fullmatch(r"episode_\d+", name)]
            for name in sorted(names, key=lambda name: int(name.split("_")[1])):
                group = file[name]
                infos = group.get("infos", {})
                episodes.append(
                    Episode(
                        observations=_observations(folder, group["observations"], parts),
                        actions=np.asarray(group["actions"], np.float32),
                        rewards=np.asarray(group["rewards"], np.float32),
                        terminations=np.asarray(group["terminations"], bool),
                        truncations=np.asarray(group["truncations"], bool),
                        infos={
                            key: np.asarray(value)
                            for key, value in infos.items()
                            if isinstance(value, h5py.Dataset)
                        },
                    )
                )
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder} is damaged ({error}); remove it and run again") from error
    if not episodes or any(len(e.observations) != len(e) + 1 for e in episodes):
        raise UserError(f"{folder} is damaged: no episode, or observations that do not fit")
    return episodes, metadata


def _observations(folder: Path, found: Any, parts: Sequence[str]) -> Floats:
    """Observations [T + 1, ...] of an episode's data set, or of the parts of its group."""
    if not hasattr(found, "keys"):
        return np.asarray(found, np.float32)
    plain = [name for name in found if not hasattr(found[name], "keys")]
    if not parts or not set(parts) <= set(plain):
        wanted = f"'{', '.join(parts)}'" if parts else "none of them"
        raise UserError(
            f"{folder} has observations in the parts {', '.join(plain)}; asked for was {wanted}"
        )
    rows = [np.asarray(found[name], np.float32) for name in parts]
    return np.concatenate([r.reshape(len(r), -1) for r in rows], -1)


def cached_episodes(
    dataset_id: str,
    config: Mapping[str, Any],
    generate: Callable[[], tuple[list[Episode], dict[str, Any]]],
    *,
    libraries: Sequence[str] = (),
) -> tuple[list[Episode], dict[str, Any]]:
    """The data set of ``config``: read if it is in the cache and whole, else generated.

    Kept as ``<cache>/minari/<hash>/<dataset_id>``: with that ``<cache>/minari/<hash>`` as
    ``MINARI_DATASETS_PATH`` Minari itself can read it. Processes that want the same data wait for
    the first one; a data set appears whole or not at all; one whose checksums do not fit is
    removed and generated again.

    Args:
        dataset_id: ``repro/<suite>/<task>/<quality>-v0``.
        config: everything that determines the data, generator version and seeds included.
        generate: returns the episodes and further metadata (rates, counts).
        libraries: packages whose versions determine the data as well.
    """
    identity = {"id": dataset_id, "libraries": library_versions(libraries), **config}
    root = cache_root() / "minari" / config_hash(identity)
    folder = root / dataset_id
    if _is_whole(folder):
        return read_minari(folder)
    busy = f"{folder} is being generated"
    with locked(root / ".lock", busy, wait=True):
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            episodes, extra = generate()
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
            try:
                metadata = {
                    "generator": dict(config),
                    "config_hash": root.name,
                    "libraries": library_versions(
                        [*libraries, "numpy", "gymnasium", "minari", "h5py"]
                    ),
                    **extra,
                }
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    write_minari(temporary, dataset_id, episodes, metadata)
                write_json(temporary / CHECKSUMS_FILE, _checksums(temporary))
                for path in (temporary / "data").iterdir():
                    _fsync(path)
                temporary.chmod(0o755)
                os.rename(temporary, folder)
                _fsync(folder.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    return read_minari(folder)


def load_minari(
    dataset_id: str, obtain: str = "", parts: Sequence[str] = ()
) -> tuple[list[Episode], dict[str, Any]]:
    """A published data set: below ``$PAPERS_DATA``/minari, in Minari's own folder, or downloaded.

    Args:
        dataset_id: such as ``mujoco/hopper/medium-v0`` or ``D4RL/antmaze/umaze-v1``.
        obtain: how to get it, for the message.
        parts: see :func:`read_minari`.

    Raises:
        UserError: if it is nowhere and cannot be downloaded; says what to get and where it goes.
    """
    local = os.environ.get("MINARI_DATASETS_PATH")
    home = Path(local) if local else Path.home() / ".minari" / "datasets"
    try:
        return read_minari(find_data(f"minari/{dataset_id}", "", ""), parts)
    except UserError:
        root = os.environ.get("PAPERS_DATA")
        if root and (Path(root) / "minari" / dataset_id).exists():
            raise
    if (home / dataset_id).exists():
        return read_minari(home / dataset_id, parts)
    try:
        import minari

        minari.download_dataset(dataset_id)
        return read_minari(home / dataset_id, parts)
    except UserError:
        raise
    except Exception as error:  # whatever the network or the remote has to say
        get = obtain or f"get it with 'minari download {dataset_id}' where there is a network"
        raise UserError(
            f"the Minari data set {dataset_id} is missing and could not be downloaded "
            f"({type(error).__name__}); {get}, and put its folder at $PAPERS_DATA/minari/"
            f"{dataset_id} (it holds data/{MAIN_FILE} and data/{METADATA_FILE})"
        ) from error


def _checksums(folder: Path) -> dict[str, str]:
    names = (MAIN_FILE, METADATA_FILE)
    return {name: sha256((folder / "data" / name).read_bytes()) for name in names}


def _is_whole(folder: Path) -> bool:
    try:
        return bool(read_json(folder / CHECKSUMS_FILE) == _checksums(folder))
    except (OSError, UserError):
        return False


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
