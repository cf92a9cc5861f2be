"""Beyond Squared Error: regression losses for GFlowNets (Hu, Zhang, Li, Huang; ICLR 2025)."""
