"""Read a checkpoint's weights, tensor by tensor, from whichever files it has them in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from electra_qa.bundle import sha256_of

from .config import read_json
from .errors import BuildError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]

# What is read, the best first: safetensors before pickles, one file before several.
FORMS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Weights of other frameworks, as the repositories of the hub name them.
OTHER_FRAMEWORKS = {
    "tf_model.h5": "TensorFlow",
    "tf_model.h5.index.json": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "flax_model.msgpack.index.json": "Flax",
    "rust_model.ot": "Rust",
    "model.onnx": "ONNX",
    "onnx/model.onnx": "ONNX",
}
# Of safetensors; NumPy has no more, and no encoder comes in the 8-bit floats.
DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
# Old names of BERT's, which Transformers renames too (conversion_mapping.py, "legacy").
RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
INSTALL_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


class WeightFiles(Mapping[str, Array]):
    """The tensors of a checkpoint by their names in its files, in the files' order.

    A tensor is read when it is asked for and kept by nobody, so that a large checkpoint need not
    be in memory; only pickles written before PyTorch 1.6 are read whole. float16 and float32 come
    as they are, bfloat16 and float64 as float32, integers (buffers such as position_ids) as they
    are. The arrays may lie in the mapped file: don't write into them. `[]` raises BuildError where
    a tensor can't be read.
    """

    def __init__(self, files: Sequence[Path], tensors: Mapping[str, Callable[[], Array]]) -> None:
        self._files = files
        self._tensors = tensors

    def __getitem__(self, name: str) -> Array:
        return self._tensors[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:  # Mapping's would read the tensor
        return name in self._tensors

    @cached_property
    def sha256(self) -> str:
        """Of the file, hexadecimal; of shards, that of their sums' digits in the order of their
        names."""
        sums = [sha256_of(file) for file in self._files]
        return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def read_weights(folder: Path) -> WeightFiles:
    """Open the weights in a checkpoint's folder. Raises BuildError.

    In the order of FORMS; of a folder with several forms the others are not looked at. Pickles
    go through PyTorch's `weights_only`, which runs no code of theirs.
    """
    form = weights_form([path.name for path in folder.iterdir()], "the checkpoint")
    read = _open_safetensors if form.startswith("model.safetensors") else _open_pickle
    if not form.endswith(".index.json"):
        return WeightFiles([folder / form], _renamed(read(folder / form)))
    shards = read_index(folder / form)
    tensors: dict[str, Callable[[], Array]] = {}
    for shard, names in shards.items():
        if not (folder / shard).is_file():
            raise BuildError(f"{form} names {shard}, which is not there")
        found = read(folder / shard)
        if missing := [name for name in names if name not in found]:
            raise BuildError(f"{shard} lacks {missing[0]}, which {form} says is in it")
        tensors |= {name: tensor for name, tensor in found.items() if name in names}
    return WeightFiles([folder / shard for shard in shards], _renamed(tensors))


def weights_form(names: Collection[str], source: str) -> str:
    """Which of FORMS a checkpoint with files of these names has. Raises BuildError.

    source: what to call the checkpoint in the message.
    """
    for form in FORMS:
        if form in names:
            return form
    others = {name: framework for name, framework in OTHER_FRAMEWORKS.items() if name in names}
    if others:
        frameworks = " and ".join(dict.fromkeys(others.values()))
        raise BuildError(
            f"{source} has only weights for {frameworks} ({', '.join(others)}), which are not "
            "read and which Transformers 5 no longer converts: look for a copy with "
            "model.safetensors or pytorch_model.bin"
        )
    raise BuildError(
        f"{source} has no weights: neither model.safetensors nor pytorch_model.bin, "
        "in one file or in shards"
    )


def read_index(path: Path) -> dict[str, set[str]]:
    """The shards that an index names, in the order of their names, with their tensors' names.

    Raises BuildError where it is no index, or names a file outside of its folder.
    """
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BuildError(f"{path.name} has no weight_map")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*", shard):
            raise BuildError(f"{path.name}: {shard!r} is not the name of a file in its folder")
        shards.setdefault(shard, set()).add(name)
    return dict(sorted(shards.items()))


def _renamed(tensors: Mapping[str, Callable[[], Array]]) -> dict[str, Callable[[], Array]]:
    renamed: dict[str, Callable[[], Array]] = {}
    for stored, tensor in tensors.items():
        name = stored
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if name in renamed:
            raise BuildError(f"the weights hold {name} twice, once by an old name")
        renamed[name] = tensor
    return renamed


def _open_safetensors(path: Path) -> dict[str, Callable[[], Array]]:
    _refuse_lfs_pointer(path)
    try:
        file: Any = safe_open(path, framework="numpy")  # whose methods have no types
        names = file.offset_keys()  # keys() would sort them
    except (SafetensorError, OSError) as error:
        raise BuildError(f"{path.name} can't be read: {error}") from error
    for name in names:
        dtype = file.get_slice(name).get_dtype()
        if dtype not in DTYPES:
            raise BuildError(f"{path.name}: {name} is stored as {dtype}, which is not read")
    return {name: partial(_safetensor, file, path.name, name) for name in names}


def _safetensor(file: Any, file_name: str, name: str) -> Array:
    try:
        tensor: Array = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise BuildError(f"{file_name}: {name} can't be read: {error}") from error
    return tensor.astype(np.float32) if tensor.dtype in (ml_dtypes.bfloat16, np.float64) else tensor


def _open_pickle(path: Path) -> dict[str, Callable[[], Array]]:
    _refuse_lfs_pointer(path)
    try:
        import torch
    except ImportError as error:
        raise BuildError(
            f"{path.name} is a pickle, which only PyTorch reads safely: {INSTALL_TORCH} "
            "(plain pip install torch brings CUDA along)"
        ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise BuildError(  # CVE-2025-32434
            f"{path.name} is a pickle, which PyTorch {torch.__version__} does not read safely; "
            "from 2.6 on it does"
        )
    loaded = _unpickled(path)
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in loaded.items()
    ):
        raise BuildError(f"{path.name} holds no plain table of tensors (a state_dict)")
    return {
        name: partial(_torch_tensor, path.name, name, tensor) for name, tensor in loaded.items()
    }


def _unpickled(path: Path) -> Any:
    """What PyTorch's own unpickler makes of a file; it knows tensors and containers, no more."""
    import torch

    with path.open("rb") as file:
        zipped = (
            file.read(4) == b"PK\x03\x04"
        )  # since PyTorch 1.6; what came before can't be mapped
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, IndexError and more
        reason = str(error)
        if called := re.search(r"GLOBAL:? ([\w.]+)", reason):
            raise BuildError(
                f"{path.name} is refused: it is no table of weights, loading it would call "
                f"{called[1]}"
            ) from error
        # What weights_only says first is how to switch it off.
        damaged = not reason or "Weights only" in reason
        reason = "it is cut short or damaged" if damaged else reason.splitlines()[0]
        raise BuildError(f"{path.name} can't be read: {reason}") from error


def _torch_tensor(file_name: str, name: str, tensor: torch.Tensor) -> Array:
    import torch

    if tensor.dtype in (torch.bfloat16, torch.float64):
        tensor = tensor.float()
    try:
        array: Array = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, 8-bit floats
        raise BuildError(
            f"{file_name}: {name} is stored as {tensor.dtype}, which is not read"
        ) from error
    return array


def _refuse_lfs_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise BuildError(f"{path.name} is only a pointer of Git LFS; fetch it: git lfs pull")
