"""Offline control: simulators in lock-step, scripted demonstrations, data sets and windows."""
