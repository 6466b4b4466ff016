"""Files of arrays and stored sets with any bytes changed: what they held, or one sentence."""

import io
import os
import pickle
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from package_fixtures import files_below, one_line
from safetensors.numpy import save

from mlbook.data import own_sets, pool_files, tensor_sets
from mlbook.data.pickles import load_arrays
from mlbook.errors import UserError

DAMAGE = st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), max_size=3)


def arrays():
    g = np.random.default_rng(0)
    return {"x": g.normal(size=(40, 3)).astype(np.float32), "y": np.repeat(np.arange(10), 4)}


def as_npz(its):
    file = io.BytesIO()
    np.savez(file, **its)
    return file.getvalue()


FILES = {".npz": as_npz(arrays()), ".safetensors": save(arrays()), ".pkl": pickle.dumps(arrays(), protocol=2)}


def damaged(content, damage, cut):
    content = bytearray(content[: max(1, round(cut * len(content)))])
    for where, value in damage:
        content[int(where * len(content))] = value
    return bytes(content)


@fuzzed
@given(ending=st.sampled_from(sorted(FILES)), damage=DAMAGE, cut=st.just(1.0) | st.floats(0, 1))
def test_a_file_of_arrays(ending, damage, cut):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"mine{ending}"
        path.write_bytes(damaged(FILES[ending], damage, cut))
        with mock.patch.dict(os.environ, {"MLBOOK_DATA": f"{folder}/data"}):
            try:
                if ending == ".pkl":
                    load_arrays(path)
                else:
                    tensor_sets.import_from("mine", path)
                    assert own_sets.imported() == ["mine"]
            except UserError as error:
                one_line(error)
                assert damage or cut < 1
                assert files_below(folder) == [path.name]


@fuzzed
@given(split=st.sampled_from(pool_files.SPLITS), damage=DAMAGE, cut=st.just(1.0) | st.floats(0, 1))
def test_a_stored_set(split, damage, cut):
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"MLBOOK_DATA": folder}):
        source = Path(folder) / "mine.npz"
        source.write_bytes(FILES[".npz"])
        tensor_sets.import_from("mine", source)
        good = own_sets.load("mine", split)
        path = pool_files.split_path(own_sets.folder() / "mine", split)
        path.write_bytes(damaged(path.read_bytes(), damage, cut))
        try:
            assert torch.equal(own_sets.load("mine", split).images, good.images)
        except UserError as error:
            assert "import mine again" in one_line(error) and (damage or cut < 1)
        for use in (own_sets.about, own_sets.array_shape):
            try:
                use("mine")
            except UserError as error:
                assert "import mine again" in one_line(error) and split == "train"
