"""The weights of a file of torch.export.save, a zip archive, read as bytes: nothing in it is unpickled or run.

    NAME/data/weights/model_weights_config.json    {"config": {key: {"path_name", "use_pickle", "tensor_meta": {"dtype",
                                                   "sizes": [{"as_int"}], "strides", "storage_offset"}}}}
    NAME/data/weights/PATH_NAME                    the tensor's storage
    serialized_state_dict.pt                       all of it up to torch 2.7: a state dict of torch.save

Source: PyTorch, torch/export/pt2_archive/constants.py and torch/_export/serde/schema.py (ScalarType).
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeres.core.errors import InputError

SUFFIX = ".pt2"
_CONFIG, _OLD = "data/weights/model_weights_config.json", "serialized_state_dict.pt"
_TYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


def exported_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`; raises InputError if there is none that can be read so."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if _OLD in names:
                found: dict[str, Tensor] = torch.load(
                    io.BytesIO(archive.read(_OLD)), map_location="cpu", weights_only=True
                )
                return found
            config = next((name for name in names if name.endswith(_CONFIG)), None)
            if config is None:
                raise InputError(f"{path} is no file of torch.export.save, or cut off: it holds no {_CONFIG}")
            tensors = json.loads(archive.read(config))["config"]
            folder = config.rpartition("/")[0]
            return {key: _tensor(archive, folder, key, entry) for key, entry in tensors.items()}
    except InputError as err:
        raise InputError(f"{path}: {err}" if str(path) not in str(err) else str(err)) from err
    except MemoryError:
        raise
    except Exception as err:  # zipfile, json, torch and what a damaged file has in place of a number raise their own
        raise InputError(f"{path} is cut off or damaged; copy it again from where it was made ({err})") from err


def _tensor(archive: zipfile.ZipFile, folder: str, key: str, entry: dict[str, Any]) -> Tensor:
    meta = entry["tensor_meta"]
    if entry["use_pickle"] or meta["dtype"] not in _TYPES:
        raise InputError(
            f"{key} is no plain tensor; where it was made, save the weights alone: torch.save(model.state_dict(), FILE)"
        )
    content = bytearray(archive.read(f"{folder}/{entry['path_name']}"))
    sizes, strides = ([int(one["as_int"]) for one in meta[name]] for name in ("sizes", "strides"))
    flat = torch.frombuffer(content, dtype=_TYPES[meta["dtype"]]) if content else torch.empty(0)
    return flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"])).clone()
