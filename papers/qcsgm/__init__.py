"""Quasi-conservative score-based generative models (QCSBM)."""
