"""Named data sets and image folders, without torch: pixels in, normalised batches out.

dataset_from("digits"), dataset_from("folder:photos")     what there is
dataset_for(checkpoint.spec, "folder:photos")             the same, labels numbered as in the checkpoint
split_from_arrays, split_from_files                       to build a Dataset of your own
"""

from edgeres.data.dataset import DATASETS, Dataset, check_data_name, data_fingerprint, dataset_for, dataset_from
from edgeres.data.split import Split, split_from_arrays, split_from_files

__all__ = [
    "DATASETS",
    "Dataset",
    "Split",
    "check_data_name",
    "data_fingerprint",
    "dataset_for",
    "dataset_from",
    "split_from_arrays",
    "split_from_files",
]
