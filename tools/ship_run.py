"""Take finished runs into the package: the record into mlbook/results/runs, the checkpoint into mlbook/results/pretrained.

    python tools/ship_run.py runs/maml-omniglot-5w1s-paper-seed0 ...

A checkpoint is shipped as float32 safetensors and must stay under 1 MB; it has to belong to the record beside it. With
--record-only none is shipped: for runs that are compared, not used.
"""

import json
import sys
from pathlib import Path

from mlbook import results
from mlbook.data.tensor_file import write_atomically
from mlbook.errors import UserError
from mlbook.experiments import run_id
from mlbook.training.runner import load_checkpoint, trained_on


def read(path: Path) -> dict:
    """A record; ``UserError`` where it is none."""
    try:
        record = json.loads(path.read_text())
        if isinstance(record, dict):
            return record
        reason = "no object"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{path} is not a record of a run ({reason})")


def ship(folder: Path, *, with_checkpoint: bool = True) -> None:
    record = read(folder / "record.json")
    others = [read(path) for path in sorted(folder.glob("record-*.json"))]
    checkpoint = folder / "checkpoint.safetensors"
    config, _ = load_checkpoint(checkpoint)
    same_data = trained_on(checkpoint) == record.get("data", {})
    if config != record.get("config") or run_id(config) != record.get("run") or not same_data:
        raise UserError(f"{folder}: checkpoint and record are of different runs")
    if with_checkpoint and checkpoint.stat().st_size >= 1_000_000:
        raise UserError(
            f"{checkpoint} has {checkpoint.stat().st_size:,} bytes; only checkpoints under 1 MB are shipped"
        )
    if any(
        other["trained_as"] != record["experiment"] or other["run"] != run_id(other["config"])
        for other in others
    ):
        raise UserError(f"{folder}: a record beside record.json is of another run")
    for one in (record, *others):
        name = f"{one['experiment']}-{one['preset']}-seed{config['seed']}.json"
        # by rename: whoever has the old file open keeps reading the old one
        write_atomically(results.RUNS / name, (json.dumps(one, indent=1) + "\n").encode())
        print(f"{one['experiment']}: {one['preset']}, {one['meta_steps']:,} meta-steps")
    if not with_checkpoint:
        return
    write_atomically(results.PRETRAINED / f"{record['experiment']}.safetensors", checkpoint.read_bytes())


if __name__ == "__main__":
    try:
        folders = [argument for argument in sys.argv[1:] if argument != "--record-only"]
        for folder in folders:
            ship(Path(folder), with_checkpoint="--record-only" not in sys.argv)
    except (UserError, OSError) as error:
        sys.exit(f"ship_run: {error}")
