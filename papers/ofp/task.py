"""The experiments by name: A (point mass), B and C (Meta-World), the paper's own."""

from collections.abc import Sequence

from common.errors import choose
from papers.ofp.interface import Task

TASKS = (
    *("point-mass", "metaworld", "pointcloud"),  # A, B, C
    *("dp3-metaworld", "dp3-adroit", "dp3-adroit-hammer", "dp3-adroit-pen", "dp3-dexart"),
)


def make_task(name: str, seeds: Sequence[int], **options: object) -> Task:
    """The experiment `name`; simulators are imported here and nowhere earlier.

    Args:
        name: one of TASKS.
        seeds: training seeds whose networks will be evaluated together.
        options: passed to the experiment (e.g. demos=20); each has its default there.
    """
    choose("task", name, TASKS)
    seeds = tuple(int(s) for s in seeds)
    if name == "point-mass":
        from papers.ofp.point_mass import PointMass

        return PointMass(seeds, **options)
    from papers.ofp.metaworld_tasks import make_metaworld_task

    return make_metaworld_task(name, seeds, **options)
