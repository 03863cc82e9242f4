"""Tools of the agents: embeddings, the label index, search over it, and the sources of candidates."""
