from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torchvision

from edgeres import api
from edgeres.core.errors import InputError
from edgeres.models import modules_of, network_from
from edgeres.models.weights import save_checkpoint

PREPROCESS = api.Preprocess(mean=(0.5,), std=(0.25,))
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class ResNet(torchvision.models.ResNet):
    """ResNet-18 with an eighth of the channels."""

    def __init__(self):
        super().__init__(torchvision.models.resnet.BasicBlock, (2, 2, 2, 2))
        self.fc = torch.nn.Linear(64, 10)

    def _make_layer(self, block, planes, *more, **how):
        return super()._make_layer(block, planes // 8, *more, **how)


@pytest.fixture(scope="module")
def mine():
    torch.manual_seed(0)
    return ResNet().eval()


def from_an_onnx_file(module, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that is to go
        torch.onnx.export(module.eval(), (IMAGES,), folder / "mine.onnx", dynamo=False)
    config = api.ImportConfig(file=folder / "mine.onnx", mean=(0.5,), std=(0.25,))
    return api.import_checkpoint(None, config, folder / "import").output


def from_a_module(module, folder):
    return api.trace(module, IMAGES, folder / "mine.safetensors", preprocess=PREPROCESS)


def of_our_family(_, folder):
    spec = api.spec_from_arch("resnet26", num_classes=10)
    return save_checkpoint(network_from(spec).state_dict(), spec, folder / "mine.safetensors", stage="train")


def names_left(spec):
    return [module.name for module in modules_of(spec) if module.name not in spec.dropped]


def traced_names(module, images, path):
    return names_left(api.trace(module, images, path, preprocess=PREPROCESS).spec)


@torch.no_grad()
def test_a_module_goes_in_and_comes_back(mine, tmp_path):
    traced = api.trace(mine, IMAGES, tmp_path / "a.safetensors", preprocess=PREPROCESS, classes=list("abcdefghij"))
    assert (traced.spec.variant, traced.spec.classes[:2], traced.spec.num_classes) == ("ResNet", ("a", "b"), 10)
    back = api.load(str(traced.path))
    assert torch.equal(back(IMAGES), mine(IMAGES))
    mine.load_state_dict(back.state_dict())


def test_a_dropped_module_trains_under_the_names_of_the_users_code(mine):
    short = api.drop(mine, ["layer3.1", "layer4.1"], IMAGES).train()
    gone = {name for name in mine.state_dict() if name.startswith(("layer3.1.", "layer4.1."))}
    assert short.state_dict().keys() == mine.state_dict().keys() - gone
    optimizer = torch.optim.SGD(short.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(short(IMAGES), torch.arange(4))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("is_training", [True, False])
def test_the_module_itself_is_left_as_it_was(mine, is_training):
    before = {name: tensor.clone() for name, tensor in mine.train(is_training).state_dict().items()}
    short = api.drop(mine, ["layer1.1"], IMAGES)
    assert short.training is mine.training is is_training
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())


@pytest.mark.parametrize(
    ("names", "images", "said"),
    [
        (["layer9.1"], IMAGES, r"ResNet has no module 'layer9.1'; did you mean layer\d.1\? \(it has layer1.0, "),
        (["layer1.1"], IMAGES[0], r"an example of images is \(N, C, H, W\), got \(3, 32, 32\)"),
    ],
)
def test_what_cannot_be_dropped_is_one_line(mine, names, images, said):
    with pytest.raises(InputError, match=said):
        api.drop(mine, names, images)


@pytest.mark.parametrize("made", [from_an_onnx_file, from_a_module, of_our_family])
def test_modules_of_a_loaded_network_keep_their_names_through_drop_trace_and_prune(mine, made, tmp_path):
    whole = made(mine, tmp_path)
    names = names_left(whole.spec)
    assert {"layer1.1", "layer2.1", "layer3.1"} <= set(names)
    net = api.load(whole)
    short = api.drop(net, ["layer2.1"], IMAGES)
    with pytest.raises(InputError, match=r"has no module 'layr3.1'; did you mean layer3.1\?"):
        api.drop(short, ["layr3.1"], IMAGES)
    gone = {name for name in net.state_dict() if name.startswith("layer2.1.")}
    assert list(short.state_dict()) == [name for name in net.state_dict() if name not in gone]
    traced = api.trace(api.drop(short, ["layer1.1"], IMAGES), IMAGES, tmp_path / "a.safetensors", preprocess=PREPROCESS)
    assert (traced.card.stage, traced.spec.dropped) == ("api.trace", ("layer1.1", "layer2.1"))
    assert names_left(traced.spec) == [name for name in names if name not in traced.spec.dropped]
    pruned = api.prune(traced, api.PruneConfig(modules=("layer3.1",)), tmp_path / "prune").output
    expected = api.drop(net, ["layer1.1", "layer2.1", "layer3.1"], IMAGES)
    with torch.no_grad():
        assert torch.equal(api.load(pruned)(IMAGES), expected.eval()(IMAGES))


def test_a_network_of_other_size_or_changed_since_keeps_its_names(mine, tmp_path):
    names = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer4.0", "layer4.1"]
    short = api.drop(api.load(from_an_onnx_file(mine, tmp_path)), ["layer3.1"], IMAGES)
    wider = torch.nn.functional.pad(IMAGES, (0, 16))
    assert traced_names(short, wider, tmp_path / "a.safetensors") == names
    whole = torch.nn.Sequential(short, torch.nn.Softmax(1))
    assert traced_names(whole, IMAGES, tmp_path / "b.safetensors") == [f"0.{name}" for name in names]
    short.set_submodule("fc", torch.nn.Linear(64, 3))
    changed = api.trace(short, IMAGES, tmp_path / "c.safetensors", preprocess=PREPROCESS)
    assert (changed.spec.num_classes, names_left(changed.spec)) == (3, names)


def test_a_head_is_exchanged_as_in_the_users_code(mine, tmp_path):
    network = api.load(from_a_module(mine, tmp_path).path)
    network.fc = torch.nn.Linear(network.fc.in_features, 3)
    assert network(IMAGES).shape == (4, 3)
    assert network.state_dict()["fc.weight"].shape == (3, 64)
    assert not hasattr(network, "head")


def test_dropping_renames_no_other_module_of_its_scope(tmp_path):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("first", "second"):
                convs = (torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
                self.add_module(name, torch.nn.Sequential(next(convs), torch.nn.ReLU(), next(convs)))

        def forward(self, x):
            x = x + self.first(x)
            return x + self.second(x)

    head = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5))
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), Twice(), *head)
    short = api.drop(net, ["1.first"], IMAGES)
    assert traced_names(short, IMAGES, tmp_path / "a.safetensors") == ["1.second"]


def test_what_acts_in_training_only_is_said_to_be_left_out(mine, tmp_path, caplog):
    class DropPath(torch.nn.Module):
        drop_prob = 0.2

        def forward(self, x):
            return x

    net = copy.deepcopy(mine)
    net.relu = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Dropout2d(0.1), DropPath(), torch.nn.Dropout(0.0))
    net.fc = torch.nn.Sequential(net.fc, torch.nn.Dropout(0.3))
    said = "left out, as it acts in training only: Dropout2d (1), DropPath (1), Dropout (1)"
    api.drop(net, ["layer1.1"], IMAGES)
    assert f"ResNet: {said}" in caplog.messages
    api.trace(mine, IMAGES, tmp_path / "a.safetensors", preprocess=PREPROCESS)
    assert len(caplog.messages) == 1
