"""BVVI: risk-sensitive RL in partially observable environments with hindsight observation."""
