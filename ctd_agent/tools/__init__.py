"""What the agents use: embeddings, the label index, and search over it."""
