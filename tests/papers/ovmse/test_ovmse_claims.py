"""Every claim can fail and be left open; every scale runs on stand-ins; a method can be added."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.claims import CONTRADICTED, NOT_SPECIFIC, REPRODUCED, NoResults
from common.rows import Rows
from papers.ovmse import claims
from papers.ovmse.methods import METHODS
from tests.papers import kit
from tests.papers.ovmse import stand_in

MEDIUM, MORE, CHAIN = claims.MEDIUM, claims.MORE_AGENTS, claims.CHAIN
# (start, dip, fall of the data's value, value early, area, final, steps to .6)
PLAIN = (0.45, 0.4, 0.6, 0.5, 0.45, 0.55, 30_000)
GOOD = (0.45, 0.0, 0.0, 1.05, 0.65, 0.8, 6_000)
FAIR = (0.45, 0.15, 0.2, 0.8, 0.5, 0.65, 28_000)
METRICS = ("start", "dip", "probe_fall", "probe_early", "auc", "final", "steps_to_60")
WORLD: dict[str, tuple[float, ...]] = {
    **{"ovmse": GOOD, "ovm-only": (0.45, 0.1, 0.2, 0.9, 0.56, 0.58, 24_000)},
    **{"se-only": (0.45, 0.2, 0.3, 0.6, 0.58, 0.58, 24_000)},
    **{"ovmse-fixed": (0.45, 0.0, 0.0, 1.1, 0.6, 0.6, 12_000), "finetune-eps": PLAIN},
    **{"finetune-small": FAIR, "keep-cql": FAIR, "mix-tuned": FAIR, "finetune-tuned": FAIR},
    **{"ovmse-tuned": GOOD, "se-tuned": (0.45, 0.1, 0.2, 0.8, 0.5, 0.55, 28_000)},
    "scratch-tuned": (0.0, 0.0, 0.0, 1.0, 0.4, 0.6, 40_000),
}


def world(noise: float = 0.01, **changes: dict[str, float]) -> Rows:
    """Rows as eval.py writes them; every claim holds unless ``changes`` (by method) say otherwise.

    Keys of a change: a metric, "more_METRIC" (eight agents) or "worst" (on the chain).
    """
    rng, rows = np.random.default_rng(0), []
    more = {
        **{"ovmse": {"auc": 0.6, "dip": 0.1, "probe_fall": 0.1, "probe_early": 1.0}},
        **{"se-only": {"auc": 0.6, "dip": 0.4, "probe_fall": 0.3, "probe_early": 0.8}},
        **{"finetune-eps": {"auc": 0.3}},
    }
    worst = {"ovm-only": 0.99, "finetune-eps": 0.1}
    for seed in range(8):
        for method, values in WORLD.items():
            change = changes.get(method.replace("-", "_"), {})
            cells = {(MEDIUM, m): v for m, v in zip(METRICS, values, strict=True)}
            if method == "scratch-tuned":  # which has no offline values
                cells = {key: v for key, v in cells.items() if "probe" not in key[1]}
            for metric, value in more.get(method, {}).items():
                cells[MORE, metric] = change.get(f"more_{metric}", value)
                cells[MORE, "start"] = 0.45
            if method in worst:
                cells[CHAIN, "chain_worst"] = change.get("worst", worst[method])
            for (task, metric), value in cells.items():
                value = change.get(metric, value) if task == MEDIUM else value
                scale = 40_000 if metric == "steps_to_60" else 1.0
                value += scale * noise * rng.standard_normal()
                row = {"task": task, "method": method, "seed": seed, "metric": metric}
                rows.append({**row, "value": value})
    return Rows(rows)


def test_claims_hold_in_a_world_where_they_do() -> None:
    for claim in claims.CLAIMS:
        assert claim.judge(world(), claim.method).verdict == REPRODUCED, claim.id
    found = {name: entry["verdict"] for name, entry in kit.judged("ovmse", world()).items()}
    # each part alone does some of what both do
    assert [found[name] for name in ("C2b", "C2x", "C4b", "C5", "C7")] == [REPRODUCED] * 5


def test_statements_are_short() -> None:
    assert all(len(claim.statement.split()) <= 25 for claim in claims.CLAIMS)


def test_every_claim_can_fail_and_can_be_left_open() -> None:
    loose = world(1.0)
    calm = {"dip": 0.02, "probe_fall": 0.02}
    dips: dict[str, Any] = {"task": MEDIUM, "method": "finetune-eps", "metric": "dip"}
    five_of_eight = kit.edited(
        world(finetune_eps=calm), lambda v: v + ([0.3] * 5 + [0] * 3), **dips
    )
    worst: dict[str, Any] = {"task": CHAIN, "method": "ovm-only", "metric": "chain_worst"}
    around = kit.edited(world(ovm_only={"worst": 0.9}), lambda v: v + [-0.3, 0.3] * 4, **worst)
    kit.check_judges(
        "ovmse",
        {
            "C1": (world(finetune_eps=calm), five_of_eight),
            "C2": (
                [world(ovm_only={"dip": 0.6}), world(ovm_only={"probe_early": 0.2})],
                # nothing is unlearned: there is nothing to prevent
                world(finetune_eps=calm),
            ),
            "C2x": (
                [world(ovm_only={"worst": 0.5}), world(finetune_eps={"worst": 0.95})],
                around,
            ),
            "C3": (
                [world(se_only={"auc": 0.4}), world(finetune_small={"auc": 0.65})],
                world(0.05, se_only={"auc": 0.46}),
            ),
            "C4a": (
                [
                    world(**{name: {"auc": 0.75}})
                    for name in ("scratch_tuned", "keep_cql", "mix_tuned")
                ],
                loose,
            ),
            "C4b": (world(finetune_small={"final": 0.95}), loose),
            "C5": (
                world(ovmse_tuned={"steps_to_60": 30_000}),
                world(0.3, ovmse_tuned={"steps_to_60": 2e4}),
            ),
            "C2b": (
                [world(ovmse={"more_dip": 0.6}), world(ovmse={"more_probe_early": 0.4})],
                world(se_only={"more_dip": 0.02, "more_probe_fall": 0.0}),
            ),
            "C6": (world(se_only={"more_auc": 0.35}), loose),
            "C7": (world(ovmse_fixed={"final": 0.9}), loose),
        },
    )


def test_a_method_without_the_contribution_that_does_as_well_is_named() -> None:
    """Little exploration alone, in OVMSE's place."""
    rows = world(finetune_small=dict(zip(METRICS, GOOD, strict=True)))
    judged = kit.judged("ovmse", rows)
    label = METHODS.label("finetune-small")
    for name in ("C4a", "C5"):
        assert judged[name]["verdict"] == NOT_SPECIFIC, name
        assert label in judged[name]["also_met_by"]
    assert judged["C3"]["verdict"] == CONTRADICTED  # less noise does as much
    # it dips less than fine-tuning with more exploration, and no less than with as much
    assert judged["C2"]["verdict"] == REPRODUCED


def test_memory_is_compared_at_equal_exploration() -> None:
    wanted = {
        **{"ovmse": "se-only", "ovmse-fixed": "se-only", "ovmse-one": "se-only"},
        **{"ovm-only": "finetune-eps", "ovm-small": "finetune-small", "se-only": "se-only"},
        **{"ovmse-tuned": "se-tuned", "mix-tuned": "finetune-tuned"},
        **{"keep-cql": "finetune-small", "mix-50": "finetune-small", "scratch": "finetune-eps"},
    }
    assert {name: claims.twin(name) for name in wanted} == wanted
    for name in ("finetune-eps", "finetune-small", "se-only"):
        assert claims.prevents(MEDIUM)(world(), name).verdict != REPRODUCED


def test_varied_settings_are_not_judged() -> None:
    frame = world().frame
    other = frame.assign(lambda0=0.5, value=frame["value"] + 1)
    rows = Rows([*frame.to_dict("records"), *other.to_dict("records")])
    assert claims.faster(rows, "ovmse").ours == claims.faster(world(), "ovmse").ours


def test_what_the_committed_rows_say() -> None:
    rows = kit.rows_of("ovmse")
    judged = kit.judged("ovmse", rows)
    said = {name: entry["verdict"] for name, entry in judged.items()}
    assert all(said[name] == REPRODUCED for name in ("C1", "C2", "C2b", "C2x"))
    assert all(said[name] == "inconclusive" for name in ("C3", "C4a", "C4b", "C5", "C6", "C7"))
    # whoever hardly explores needs as few steps
    assert METHODS.label("finetune-small") in judged["C5"]["also_met_by"]
    dip = rows.of(task=MEDIUM, metric="dip")
    assert dip.of(method="finetune-eps").value() > 5 * dip.of(method="finetune-small").value()


def test_the_null_level_of_the_dip() -> None:
    """By simulation: a policy that doesn't change, evaluated six times."""
    rng = np.random.default_rng(0)
    for p in (0.45, 0.6):
        won = rng.binomial(256, p, (200_000, 6)) / 256
        share = (won[:, 0] - won[:, 1:].min(1) > 0.1).mean()
        assert claims.null_dip(p) == pytest.approx(share, abs=2e-3)
    assert 0.02 < claims.null_dip(0.45) < 0.06
    assert claims.null_dip(0.0) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_judges_take_any_method_and_say_what_is_missing(method: str) -> None:
    for claim in claims.CLAIMS:
        for rows in (world(), Rows([])):
            try:
                assert claim.judge(rows, method).ours
            except NoResults as missing:
                assert str(missing)


def test_a_dip_that_is_open() -> None:
    assert claims.unlearns(world(0.0), "finetune-small").verdict == REPRODUCED
    assert claims.unlearns(world(0.0), "ovmse").verdict == CONTRADICTED


# -- scales ---------------------------------------------------------------------------------------


def tiny(job: Any) -> Sequence[str] | None:
    if job.module == "chain":
        return ["--episodes", "4"]
    stage = {"generate": stand_in.DATA, "pretrain": stand_in.OFFLINE, "train": stand_in.ONLINE}
    values = {**stage[job.module]}
    if job.module == "train":
        values |= {"steps": 48, "evaluations": 4, "dip_episodes": 4}
    if job.module == "pretrain":
        values |= {"updates": 4, "evaluate_every": 2}
    return stand_in.flags(values)


@pytest.mark.parametrize("scale", ["default", "study", "tuning"])
def test_every_stage_of_every_scale_on_stand_ins(
    scale: str, tmp_path: Path, corridor: None
) -> None:
    found = kit.run_scale("ovmse", scale, tmp_path, tiny, seeds=2 if scale == "default" else 1)
    rows = Rows(found["rows"])
    drawn = {figure["name"] for figure in found["figures"]}
    if scale == "default":
        assert {"online", "online_8m_medium", "seeds_3m_medium", "chain", "offline"} <= drawn
        assert found["tables"][0]["main"] and len(found["tables"][0]["rows"]) == 12
    if scale == "study":
        assert rows.of(method="ovmse", metric="auc").unique("lambda0") == [0.5, 1.0]
        assert "online_3m_expert" in drawn
    if scale == "tuning":
        assert rows.of(metric="offline_final").unique("alpha") == [0.5, 2.0, 5.0]
        assert rows.of(method="scratch", metric="auc").unique("epsilon") == [0.1]


def test_the_papers_scale_on_data_of_the_public_layout(
    tmp_path: Path, corridor: None, monkeypatch: pytest.MonkeyPatch, stages: Path
) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py reads SMAC's data, at the paper's scale alone")
    from common.marl import datasets
    from common.marl.episodes import batch_of

    played, _ = datasets.read(stages / "data" / "3m" / "qmix" / "seed-0" / "medium.npz")
    batch = batch_of(played)
    arrays = {
        **{"obs": batch.obs, "state": batch.state, "avail_actions": batch.avail.int()},
        "actions": np.concatenate([batch.actions, batch.actions[:, -1:]], 1)[..., None],
    }
    for name in ("reward", "terminated"):
        value = getattr(batch, name).numpy()
        arrays[name] = np.pad(value, ((0, 0), (0, 1)))[..., None]
    lengths = batch.filled.sum(1).numpy()
    arrays["filled"] = (np.arange(batch.steps + 1) <= lengths[:, None])[..., None]
    path = tmp_path / "papers" / "ovmse" / "2s3z_medium_replay.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=np.asarray(array))
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "papers"))

    def one_task(job: Any) -> Sequence[str] | None:
        return tiny(job) if job.task == "smac_2s3z-replay" else None

    found = kit.run_scale("ovmse", "paper", tmp_path, one_task, seeds=1)
    assert {row["task"] for row in found["rows"]} == {"smac_2s3z-replay"}


def test_an_added_method_goes_through_everything(earlier: Path, tmp_path: Path) -> None:
    for stage in ("data", "offline"):
        shutil.copytree(earlier / stage, tmp_path / stage, dirs_exist_ok=True)
    places = {
        "offline": tmp_path / "offline" / "3m-medium" / "cfcql" / "seed-0",
        "data": tmp_path / "data" / "3m" / "qmix" / "seed-0" / "medium.npz",
    }
    flags = stand_in.flags({**stand_in.ONLINE, **places, "seed": 0})
    kit.check_added_method("ovmse", tmp_path, flags=flags)
