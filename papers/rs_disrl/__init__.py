"""RS-DisRL (Chen et al., ICML 2024): risk-sensitive distributional RL with static risk measures."""
