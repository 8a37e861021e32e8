"""PyTorch towers: multiplexed transformers, factorised embeddings, timm and Transformers bodies, pairs of towers."""
