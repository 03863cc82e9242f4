"""Read the user's files: catalogues, documents and gold labels."""

from ctd_agent.files.inputs import read_documents, read_gold, read_labels

__all__ = ["read_documents", "read_gold", "read_labels"]
