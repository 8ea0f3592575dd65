"""A definition by the config.json of a folder; transformers is a stand-in here for what is told it and made of it.

With transformers 4.57.6 itself a ResNet's, a RegNet's, a ConvNeXt's and a MobileNetV2's folder were imported: logits as
its own, and the same pixels as its image processor gives.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from edgeres.core.errors import InputError, MissingDependency
from edgeres.models import modules_of
from edgeres.models.importing import ImportConfig, import_checkpoint
from edgeres.models.libraries import of_folder
from edgeres.models.weights import load_network

NAMES = {"0": "cat", "1": "dog", "2": "owl"}


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + torch.relu(self.conv(x)))


class Classifier(nn.Module):
    """Takes and gives what the library's classifiers do."""

    def __init__(self, classes):
        super().__init__()
        self.embedder, self.layers = nn.Conv2d(3, 4, 3, 2, 1), nn.Sequential(Layer(), Layer())
        self.head = nn.Linear(4, classes)

    def forward(self, pixel_values, labels=None, return_dict=None):
        assert return_dict
        return SimpleNamespace(logits=self.head(self.layers(self.embedder(pixel_values)).mean((2, 3))))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder as save_pretrained leaves it, and the library that reads it."""

    def config_in(path, *, local_files_only, trust_remote_code):
        assert local_files_only
        assert not trust_remote_code
        read = json.loads((path / "config.json").read_text())
        if read["model_type"] != "resnet":
            raise ValueError(f"unrecognized model\nin {path}")
        return SimpleNamespace(num_labels=len(read["id2label"]))

    library = SimpleNamespace(
        AutoConfig=SimpleNamespace(from_pretrained=config_in),
        AutoModelForImageClassification=SimpleNamespace(
            from_config=lambda config, trust_remote_code: Classifier(config.num_labels)
        ),
    )
    monkeypatch.setitem(sys.modules, "transformers", library)
    (tmp_path / "net").mkdir()
    write(tmp_path / "net", "config", {"model_type": "resnet", "id2label": NAMES, "auto_map": {"AutoConfig": "evil.C"}})
    write(tmp_path / "net", "preprocessor_config", {"size": 32, "crop_pct": 0.8, **NORMALISED})
    return tmp_path / "net"


NORMALISED = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.25, 0.5], "resample": 3}


def write(folder, name, content):
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_network_preprocessing_and_names_are_those_of_the_folder(folder, tmp_path):
    torch.manual_seed(0)
    network = Classifier(3).eval()
    torch.save(network.state_dict(), folder / "weights.bin")
    config = ImportConfig(file=folder / "weights.bin", arch=f"hf/{folder}")
    config.check()
    done = import_checkpoint(None, config, tmp_path / "out")
    spec = done.output.spec
    assert (spec.variant, spec.classes, spec.input_shape) == ("net", ("cat", "dog", "owl"), (3, 32, 32))
    assert (spec.preprocess.mean, spec.preprocess.resize, spec.preprocess.interpolation) == (
        (0.5, 0.4, 0.3),
        40,
        "bicubic",
    )
    assert [module.name for module in modules_of(spec)] == ["layers.0", "layers.1"]
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images, return_dict=True).logits
        assert torch.allclose(load_network(done.output).eval()(images), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "side", "resize", "fit"),
    [
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 256, "crop"),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, None, "squash"),
        ({"size": {"shortest_edge": 110}, "crop_size": {"height": 96, "width": 96}}, 96, 110, "crop"),
        ({"size": {"height": 32, "width": 32}}, 32, None, "squash"),
    ],
)
def test_images_come_to_the_input_as_the_librarys_processor_brings_them(folder, images, side, resize, fit):
    write(folder, "preprocessor_config", images | NORMALISED)
    _, (channels, height, width), preprocess, _ = of_folder(folder)
    assert (channels, height, width, preprocess.resize, preprocess.fit) == (3, side, side, resize, fit)


def test_numbered_classes_have_no_names_and_a_folder_need_not_say_how_images_come(folder):
    write(folder, "config", {"model_type": "resnet", "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "image_size": 64})
    (folder / "preprocessor_config.json").unlink()
    make, shape, preprocess, classes = of_folder(folder)
    assert (shape, preprocess, classes) == ((3, 64, 64), None, ())
    assert make(7).head.out_features == 7


def test_what_is_no_folder_of_a_classifier_is_refused_in_one_line(folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"there is no .*config\.json; name the folder of save_pretrained"):
        of_folder(tmp_path)
    write(folder, "config", {"model_type": "mine", "id2label": NAMES})
    with pytest.raises(InputError, match=r"transformers has no such classifier of images: unrecognized model in /"):
        of_folder(folder)[0](None)
    for wrong in ({"num_channels": "three"}, {"num_channels": 0}, {"id2label": [1]}, {"id2label": {"a": 1}}):
        write(folder, "config", {"model_type": "resnet", "id2label": NAMES, **wrong})
        with pytest.raises(InputError, match=r"config\.json and preprocessor_config\.json say nothing that can be"):
            of_folder(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(InputError, match=r"config\.json holds no options"):
        of_folder(folder)
    write(folder, "config", {"model_type": "resnet", "id2label": NAMES})
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match="hf"):
        of_folder(folder)
