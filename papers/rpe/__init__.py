"""Random Policy Evaluation uncovers policies of Generative Flow Networks (He et al., 2025)."""
