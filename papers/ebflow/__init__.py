"""Training Energy-Based Normalizing Flow with Score-Matching Objectives (Chao et al. 2023)."""
