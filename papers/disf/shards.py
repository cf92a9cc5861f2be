"""Selection of very many files: groups of files on threads, on Ray or on Spark.

What is selected depends on the groups, their order and the seed, never on the engine, the number of
workers or the order in which they finish: a group's batches and first picks are drawn from (seed,
number of the group, number of the batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from common.errors import UserError, choose
from papers.disf.method import Ask, Files, Indices

Task = Callable[[int], Indices]


def of_group(files: Files, number: int) -> Files:
    """One group alone, under its own number."""
    a, b = files.spans[number - files.first_group]
    return replace(
        files,
        features=files.features[a:b],
        texts=(),
        domains=files.domains[a:b],
        groups=(b - a,),
        first_group=number,
    )


def here(task: Task, numbers: Sequence[int], workers: int) -> list[Indices]:
    """One after the other."""
    return [task(number) for number in numbers]


def on_threads(task: Task, numbers: Sequence[int], workers: int) -> list[Indices]:
    """Side by side in this process: products release the lock."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(task, numbers))


def on_ray(task: Task, numbers: Sequence[int], workers: int) -> list[Indices]:
    """A Ray task per group, retried when a node dies; joins the cluster of $RAY_ADDRESS."""
    ray = package("ray")
    if not ray.is_initialized():
        ray.init(num_cpus=None if workers < 1 else workers, include_dashboard=False)
    remote = ray.remote(num_cpus=1, max_retries=3)(task)
    return list(ray.get([remote.remote(number) for number in numbers]))


def on_spark(task: Task, numbers: Sequence[int], workers: int) -> list[Indices]:
    """A partition per group of the running Spark context, or of a local one."""
    context = package("pyspark").SparkContext.getOrCreate()
    found = context.parallelize(list(numbers), len(numbers)).map(lambda n: (n, task(n))).collect()
    by_number = dict(found)
    return [by_number[number] for number in numbers]


def package(name: str) -> Any:
    """An engine's package.

    Raises:
        UserError: if it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"--engine {name} needs its package: pip install {name}") from error


ENGINES = {"here": here, "threads": on_threads, "ray": on_ray, "pyspark": on_spark}


def select(
    files: Files,
    how: Callable[[Files, Ask], Indices],
    ask: Ask,
    *,
    engine: str = "here",
    workers: int = 1,
) -> Indices:
    """A selection that looks at one group at a time, group by group. [n] sorted.

    Raises:
        UserError: for an unknown engine, or one that is not installed.
    """
    choose("engine", engine, ENGINES)
    numbers = range(files.first_group, files.first_group + len(files.spans))

    def task(number: int) -> Indices:
        return how(of_group(files, number), ask)

    found = ENGINES[engine](task, numbers, workers)
    starts = [a for a, _ in files.spans]
    return np.concatenate([a + part for a, part in zip(starts, found, strict=True)])


__all__ = ["ENGINES", "of_group", "select"]
