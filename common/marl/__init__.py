"""What papers on cooperative multi-agent RL share: environments, episodes, agents, mixers."""
