"""QGFN: Controllable Greediness with Action Values (Lau et al., NeurIPS 2024)."""
