"""Take finished runs into the package: the record into mlbook/results/runs, the checkpoint into mlbook/pretrained.

    python tools/ship_run.py runs/maml-omniglot-5w1s-paper-seed0 ...

A checkpoint is shipped as float32 safetensors and must stay under 1 MB; it has to belong to the record beside it.
"""

import json
import sys
from pathlib import Path

from mlbook.errors import UserError
from mlbook.experiments import run_id
from mlbook.run import load_checkpoint
from mlbook.tensor_file import write_atomically

ROOT = Path(__file__).resolve().parents[1] / "mlbook"


def ship(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    checkpoint = folder / "checkpoint.safetensors"
    config, _ = load_checkpoint(checkpoint)
    if config != record["config"] or run_id(config) != record["run"]:
        raise UserError(f"{folder}: checkpoint and record are of different runs")
    if checkpoint.stat().st_size >= 1_000_000:
        raise UserError(
            f"{checkpoint} has {checkpoint.stat().st_size:,} bytes; only checkpoints under 1 MB are shipped"
        )
    name = record["experiment"]
    kept = ROOT / "results" / "runs" / f"{name}-{record['preset']}-seed{config['seed']}.json"
    # by rename: whoever has the old checkpoint open keeps reading the old one
    write_atomically(kept, (folder / "record.json").read_bytes())
    write_atomically(ROOT / "pretrained" / f"{name}.safetensors", checkpoint.read_bytes())
    print(f"{name}: {record['preset']}, {record['meta_steps']:,} meta-steps")


if __name__ == "__main__":
    try:
        for argument in sys.argv[1:]:
            ship(Path(argument))
    except (UserError, OSError) as error:
        sys.exit(f"ship_run: {error}")
