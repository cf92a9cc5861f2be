"""GFlowNet common ground: environments, exact solver, objectives, stacked networks, metrics."""
