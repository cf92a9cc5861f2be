"""Evolution Guided Generative Flow Networks (Ikram, Pan, Liu, TMLR 2025)."""
