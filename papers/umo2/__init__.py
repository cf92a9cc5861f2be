"""UMO²: adversarial network optimisation under bandit feedback (Dai, Huang; SIGMETRICS 2025)."""
