"""Retrospective backward synthesis for goal-conditioned GFlowNets."""
