"""MEow: maximum-entropy reinforcement learning by an energy-based normalizing flow."""
