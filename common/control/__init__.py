"""Offline control: simulators, data sets and windows, and what learns from them.

Data: ``metaworld`` and ``metaworld_goals`` (scripted experts), ``random_search`` and
``locomotion_data`` (snapshots of a search), ``mtdiff`` (published replays), ``episodes`` (Minari's
files, cached), ``cards``, ``scores``, ``behaviour`` (what noisy experts do on average). In memory:
``trajectories``, ``windows``, ``sequences``. Learning: ``iql``, ``decision_transformer``,
``adapters``, ``sparse``, ``diffusion``, ``denoisers``, ``task_texts``.
Evaluation: ``lockstep`` (chunks of actions), ``decision_rollout`` (returns-to-go), ``continual``
(tasks one after another).
"""
