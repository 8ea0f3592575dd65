from __future__ import annotations

import copy

import pytest
import torch
import torchvision

from edgeres import api
from edgeres.core.errors import InputError

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
