"""TDIL: expert proximity as surrogate reward for imitation from a single demonstration."""
