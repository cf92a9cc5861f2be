"""uniINF: best-of-both-worlds heavy-tailed bandits without parameters."""
