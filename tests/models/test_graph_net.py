from __future__ import annotations

import copy
import functools
from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeres.core.errors import InputError
from edgeres.core.spec import TRACED, ModelSpec, Preprocess
from edgeres.export.stage import ExportConfig, export
from edgeres.models import modules_of, network_from
from edgeres.models.graph_family import chain_of
from edgeres.models.graph_net import Piece
from edgeres.models.network import live_in
from edgeres.models.sources import from_module
from edgeres.models.weights import (
    checkpoint_without,
    cost_of,
    fold_batch_norms,
    load_folded,
    load_network,
    load_weights,
    save_checkpoint,
    weights_without,
)
from edgeres.refit.folded import folded_module, run

SHAPE = (3, 16, 16)


class Block(nn.Module):
    """y = act(skip(x) + branch(x))."""

    def __init__(self, branch, skip=None, act=None):
        super().__init__()
        self.branch, self.skip, self.act = branch, skip, act or nn.Identity()

    def forward(self, x):
        return self.act((x if self.skip is None else self.skip(x)) + self.branch(x))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels, gate=None):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)
        self.gate = gate or nn.Sigmoid()

    def forward(self, x):
        return self.gate(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True))))) * x


class Efficient(nn.Module):
    """Attention over channels by a convolution along them, spread by hand."""

    def __init__(self):
        super().__init__()
        self.row = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        gate = torch.sigmoid(self.row(x.mean((2, 3)).view(len(x), 1, -1))).view(len(x), -1, 1, 1)
        return x * gate.expand_as(x)


class Standardised(nn.Conv2d):
    """A convolution of standardised weights."""

    def forward(self, x):
        shape = self.weight.shape
        rows = nn.functional.batch_norm(self.weight.reshape(1, shape[0], -1), None, None, training=True)
        return nn.functional.conv2d(x, rows.reshape(shape), self.bias, padding=1)


class Scale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x):
        return x * self.gamma


class Rows(nn.Module):
    """A function on rows of channels."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Parallel(nn.Module):
    """Two branches of modules side by side that look at each other once, as in HRNet and DLA."""

    def __init__(self):
        super().__init__()
        self.high, self.low = nn.ModuleList([basic(), basic()]), nn.ModuleList([basic(), basic()])
        self.down, self.cross = conv(8, 8, stride=2), conv(8, 8, 1)

    def forward(self, x):
        low = self.down(x)
        x, low = self.high[0](x), self.low[0](low)
        low = torch.relu(low + self.cross(nn.functional.avg_pool2d(x, 2)))
        x, low = self.high[1](x), self.low[1](low)
        return torch.cat([nn.functional.max_pool2d(x, 2), low], 1)


class Activated(nn.Module):
    """A pre-activated module whose skip is projected from what its norm and activation give, as in wide ResNets."""

    def __init__(self, a, b):
        super().__init__()
        self.norm, self.skip = nn.BatchNorm2d(a), None if a == b else nn.Conv2d(a, b, 1, stride=2, bias=False)
        self.branch = nn.Sequential(
            nn.Conv2d(a, b, 3, 1 if a == b else 2, 1), nn.BatchNorm2d(b), nn.ReLU(), *conv(b, b)
        )

    def forward(self, x):
        y = torch.relu(self.norm(x))
        return (x if self.skip is None else self.skip(y)) + self.branch(y)


class Net(nn.Module):
    def __init__(self, *blocks, width=8, last=None, head=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(last or width, head)

    def forward(self, x):
        return self.head(self.features(self.stem(x)).mean((2, 3)))


class Halves(nn.Module):
    """Half of the channels pass by the layers, as in ShuffleNet and YOLO."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        kept, changed = x.split(4, 1)
        return torch.cat([self.layers(changed), kept], 1)


class Rooted(Net):
    """Weights of its own, which no module's name stands before."""

    def __init__(self, *blocks):
        super().__init__(*blocks)
        self.position, self.tokens = nn.Parameter(torch.rand(1, 8, 16, 16)), nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        return self.head((self.features(self.stem(x) + self.position) * self.tokens).mean((2, 3)))


def conv(a, b, size=3, **more):
    return nn.Sequential(nn.Conv2d(a, b, size, padding=size // 2, bias=False, **more), nn.BatchNorm2d(b))


def basic(a=8, b=8, **more):
    skip = None if a == b else conv(a, b, 1, stride=2)
    return Block(nn.Sequential(*conv(a, b, stride=1 if a == b else 2), nn.ReLU(), *conv(b, b)), skip, nn.ReLU(), **more)


def preactivated():
    return Block(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)))


def inverted():
    wide = conv(16, 16, groups=16)
    return Block(nn.Sequential(*conv(8, 16, 1), nn.ReLU6(), *wide, nn.Hardswish(), *conv(16, 8, 1)))


def next_like():
    rows = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    return Block(nn.Sequential(nn.Conv2d(8, 8, 7, padding=3, groups=8), Rows(rows), Scale(8)))


NETS = {
    "basic": lambda: Net(basic(), basic(), basic(8, 16), basic(16, 16), last=16),
    "grouped": lambda: Net(*(Block(nn.Sequential(*conv(8, 8, groups=4), nn.ReLU(), *conv(8, 8, 1))) for _ in range(2))),
    "gated": lambda: Net(*(Block(nn.Sequential(*conv(8, 8), nn.SiLU(), *conv(8, 8), Gate(8))) for _ in range(2))),
    "hard": lambda: Net(
        *(Block(nn.Sequential(*conv(8, 8), nn.Hardswish(), Gate(8, nn.Hardsigmoid()))) for _ in range(2))
    ),
    "preactivated": lambda: Net(preactivated(), preactivated()),
    "activated": lambda: Net(Activated(8, 8), Activated(8, 8), Activated(8, 16), Activated(16, 16), last=16),
    "inverted": lambda: Net(inverted(), conv(8, 8), inverted()),
    "next": lambda: Net(next_like(), next_like()),
    "efficient": lambda: Net(
        *(Block(nn.Sequential(*conv(8, 8), nn.ReLU(), *conv(8, 8), Efficient())) for _ in range(2))
    ),
    "standardised": lambda: Net(
        *(Block(nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU(), Standardised(8, 8, 3))) for _ in range(2))
    ),
    "raised": lambda: Net(
        *(
            Block(nn.Sequential(*conv(8, 8, stride=2), nn.ReLU(), nn.Upsample(scale_factor=2.0), *conv(8, 8)))
            for _ in "ab"
        )
    ),
    "parallel": lambda: Net(Parallel(), last=16),
    "split": lambda: Net(*(Block(nn.Sequential(*conv(8, 8), nn.ReLU(), Halves(conv(4, 4)))) for _ in range(2))),
    "rooted": lambda: Rooted(basic(), basic()),
    "uneven": lambda: Net(basic(), nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, stride=2)), basic()),
    "pooled": lambda: Net(
        Block(conv(8, 16).append(nn.ReLU()), nn.Sequential(nn.AvgPool2d(1), conv(8, 16, 1))), last=16
    ),
}


def brought(module, name="net"):
    """Its spec and weights; its norms are given statistics, and it is in evaluation mode then."""
    torch.manual_seed(0)
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            nn.init.normal_(one.running_mean, std=0.1)
            nn.init.uniform_(one.running_var, 0.5, 1.5)
            nn.init.uniform_(one.weight, 0.5, 1.5)
    module.eval()
    found = from_module(module, SHAPE, name)
    preprocess = Preprocess(mean=(0.5,), std=(0.25,))
    spec = ModelSpec(
        family=TRACED,
        variant=name,
        num_classes=found.outputs,
        input_shape=found.shape,
        preprocess=preprocess,
        structure=found.structure,
    )
    return spec, found.weights


@functools.cache
def net(name):
    """A network of NETS, its spec and weights: for tests that change none of them."""
    module = NETS[name]()
    return module, *brought(module, name)


@pytest.fixture
def images():
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def network_of(spec, weights):
    network = network_from(spec)
    network.load_state_dict(weights)
    return network.eval()


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_network_computes_what_the_module_does_under_its_own_names(name, images):
    module, spec, weights = net(name)
    network = network_of(spec, weights)
    torch.testing.assert_close(network(images), module(images), rtol=1e-5, atol=1e-6)
    own = module.state_dict()
    kept = {key for key in weights if key in own}
    assert name == "standardised" or all(torch.equal(weights[key], own[key]) for key in kept)
    assert name in {"next", "standardised"} or weights.keys() == own.keys()  # a matrix is transposed, a weight computed
    assert {key for key, _ in network.named_parameters()} == {key for key in weights if not is_statistic(key)}


@pytest.mark.parametrize("name", NETS)
def test_its_multiply_accumulates_are_the_modules(name):
    module, spec, _ = net(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, *SHAPE))
    assert cost_of(spec).macs == counter.get_total_flops() // 2


def is_statistic(key):
    return key.rpartition(".")[2] in {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_dropping_modules_in_a_row_equals_zeroing_their_branches(name, images):
    module, spec, weights = net(name)
    paths = [info.name for info in modules_of(spec)]
    for gone in (*pairwise(paths), tuple(paths)):
        zeroed = copy.deepcopy(module)
        for path in gone:
            zeroed.get_submodule(path).branch.register_forward_hook(lambda _, __, output: 0 * output)
        cut = spec.without(gone)
        dropped = network_of(cut, weights_without(weights, cut))
        torch.testing.assert_close(dropped(images), zeroed(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_dropping_a_module_equals_zeroing_its_branch(name, images):
    module, spec, weights = net(name)
    blocks = [path for path, one in module.named_modules() if isinstance(one, (Block, Activated))]
    assert sorted(info.name for info in modules_of(spec)) == sorted(blocks)
    whole = network_of(spec, weights)
    for path in blocks:
        zeroed = copy.deepcopy(module)
        zeroed.get_submodule(path).branch.register_forward_hook(lambda _, __, output: 0 * output)
        cut = spec.without((path,))
        dropped = network_of(cut, weights_without(weights, cut))
        torch.testing.assert_close(dropped(images), zeroed(images), rtol=1e-5, atol=1e-6)
        x = whole.stem(images)
        for one, unit in whole.units():
            x = unit.bypass(x) if one == path else unit(x)
        assert torch.equal(dropped(images), whole.classify(whole.tail(x)))
        assert not torch.equal(dropped(images), whole(images))
        gone = {key for key in weights if key.startswith(f"{path}.branch.")}
        gone |= {key for key in weights if key.startswith(f"{path}.") and name == "standardised"}
        if name == "activated" and path != "features.2":  # the norm is read by the branch alone
            gone |= {key for key in weights if key.startswith(f"{path}.norm.")}
        assert cut != spec
        assert weights.keys() - weights_without(weights, cut).keys() == gone


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_what_is_left_goes_on_from_any_cut_of_the_whole(name, images):
    _, spec, weights = net(name)
    whole, paths = network_of(spec, weights), [info.name for info in modules_of(spec)]
    for gone in (*((path,) for path in paths), *pairwise(paths)):
        cut = spec.without(gone)
        dropped = network_of(cut, weights_without(weights, cut))
        x, wanted, units = whole.stem(images), dropped(images), dict(dropped.units())
        for place in range(paths.index(gone[0]) + 1):
            y = x
            for unit in (units[one] for one in paths[place:] if one in units):
                y = unit(y)
            assert torch.equal(dropped.classify(dropped.tail(y)), wanted)
            x = dict(whole.units())[paths[place]](x)


LAYERS = {"basic": 2, "grouped": 2, "gated": 2, "hard": 1, "preactivated": 1, "inverted": 3, "next": 1, "uneven": 2}


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_a_module_is_the_sum_of_its_parts(name, images):
    network = network_of(*net(name)[1:])
    x = network.stem(images)
    for _, unit in network.units():
        module, y = folded_module(unit), unit(x)
        parts = unit.parts()
        mine = parts.enter(x)
        found = parts.leave(x, run(parts.after, parts.skip(mine) + run(parts.branch, mine)))
        assert all(map(torch.equal, live_in(found), live_in(y)))
        if module.layers:
            torch.testing.assert_close(live_in(module(x)), live_in(y), rtol=1e-4, atol=1e-5)
        assert len(module.layers) == LAYERS.get(name, len(module.layers))
        x = y


@torch.no_grad()
def test_a_layer_that_several_modules_call_is_in_no_part(images):
    same = nn.Conv2d(8, 8, 3, padding=1)
    blocks = [Block(nn.Sequential(same, nn.ReLU(), *conv(8, 8)), None, nn.ReLU()) for _ in range(2)]
    network = network_of(*brought(Net(*blocks)))
    x = network.stem(images)
    for _, unit in network.units():
        assert [type(part) for part in unit.parts().branch] == [Piece, nn.ReLU, nn.Conv2d, nn.BatchNorm2d]
        assert torch.equal(run(unit.parts().after, unit.parts().skip(x) + run(unit.parts().branch, x)), unit(x))


@torch.no_grad()
def test_the_chain_gives_what_the_whole_does(images):
    spec, weights = net("basic")[1:]
    network = network_of(spec, weights)
    x = network.stem(images)
    for _, unit in network.units():
        x = unit(x)
    assert torch.equal(network.tail(x), network.features(images))
    assert network.features(images).shape == (4, 16, 8, 8)
    assert torch.equal(network.classify(network.features(images)), network(images))


@pytest.mark.parametrize("name", NETS)
def test_an_exported_network_agrees_and_a_dropped_one_has_fewer_nodes(name, tmp_path):
    _, spec, weights = net(name)
    whole = save_checkpoint(weights, spec, tmp_path / "whole.safetensors", stage="import")
    first = modules_of(spec)[0].name
    cut = checkpoint_without(whole, (first,), tmp_path / "cut.safetensors")
    graphs = []
    for checkpoint in (whole, cut):
        config = ExportConfig(dynamic=True)
        graphs.append(export(checkpoint, config, tmp_path / checkpoint.path.stem).output.proto.graph)  # compares itself
    nodes = [{node.name for node in graph.node} for graph in graphs]
    assert nodes[1] < nodes[0]
    assert not {node.op_type for node in graphs[0].node} & {"BatchNormalization"} or name in {
        "preactivated",
        "activated",
    }


def test_an_activation_that_repeats_another_goes_with_its_module():
    spec, _ = net("basic")[1:]
    from edgeres.models.graph_family import graph_without

    def relus(one):
        return sum(node.op_type == "Relu" for node in graph_without(one).graph.node)

    assert relus(spec.without(("features.0",))) == relus(spec) - 2


@torch.no_grad()
def test_folding_keeps_the_logits_and_leaves_no_batch_norm(images, tmp_path):
    spec, weights = net("basic")[1:]
    network = network_of(spec, weights)
    before = network(images)
    assert len(fold_batch_norms(network)) == 10
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-5)
    checkpoint = save_checkpoint(weights, spec, tmp_path / "a.safetensors", stage="import")
    torch.testing.assert_close(load_folded(checkpoint)(images), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_every_network_can_be_folded(name, images):
    network = network_of(*net(name)[1:])
    before = network(images)
    fold_batch_norms(network)
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-5)


def test_a_network_trains_as_its_module_does(images):
    module = NETS["basic"]()
    spec, weights = brought(module)
    network = network_of(spec, weights)
    for one in (module, network):
        one.train()
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        one(images).square().mean().backward()
        optimizer.step()
    trained = network.state_dict()
    for key, tensor in module.state_dict().items():
        torch.testing.assert_close(trained[key], tensor, rtol=1e-5, atol=1e-6)
    assert int(trained["stem.1.num_batches_tracked"]) == 1


def test_equal_weights_stay_two():
    module = Net(basic(), basic())
    module.features[1].load_state_dict(module.features[0].state_dict())
    _, weights = brought(module)
    assert weights.keys() == module.state_dict().keys()


def test_a_file_gives_the_network_again(images, tmp_path):
    spec, weights = net("gated")[1:]
    checkpoint = save_checkpoint(weights, spec, tmp_path / "a.safetensors", stage="import")
    assert checkpoint.spec == spec
    with torch.no_grad():
        assert torch.equal(load_network(checkpoint)(images), network_of(spec, weights)(images))
    assert load_weights(checkpoint).keys() == weights.keys()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:40], "damaged"),
        (lambda text: "no base64!", "damaged"),
        (lambda text: None, "brings none"),
    ],
)
def test_a_damaged_structure_is_one_line(change, reason):
    spec, _ = net("basic")[1:]
    with pytest.raises(InputError, match=reason):
        network_from(spec.model_copy(update={"structure": change(spec.structure)}))


def test_a_structure_that_unpacks_to_too_much_is_refused():
    import base64
    import zlib

    bomb = base64.b64encode(zlib.compress(bytes(65 << 20), 9)).decode()
    spec, _ = net("basic")[1:]
    with pytest.raises(InputError, match="larger than 64 MiB"):
        network_from(spec.model_copy(update={"structure": bomb}))


class Reparametrised(nn.Module):
    """A RepVGG unit in training."""

    def __init__(self):
        super().__init__()
        self.three, self.one, self.norm = conv(8, 8), conv(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(self.three(x) + self.one(x) + self.norm(x))


class Pyramid(nn.Module):
    """The last map, and the first raised to it."""

    def __init__(self):
        super().__init__()
        self.deep, self.lateral = nn.Sequential(*conv(8, 8, stride=2), nn.ReLU(), *conv(8, 8)), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = self.deep(x)
        up = nn.functional.interpolate(y, scale_factor=2.0)
        return torch.cat([self.lateral(x) + up, up], 1)


@pytest.mark.parametrize(
    ("module", "last", "reason"),
    [
        (Reparametrised, 8, "its branch is linear"),
        (Pyramid, 16, "read elsewhere"),
        (
            lambda: Block(nn.Sequential(*conv(8, 8), nn.ReLU(), *conv(8, 8)), nn.Sequential(nn.ReLU())),
            8,
            "through Relu",
        ),
        (
            lambda: Block(
                nn.Sequential(*conv(8, 8), nn.ReLU(), *conv(8, 8), *conv(8, 8)), conv(8, 8, 1).append(conv(8, 8, 1))
            ),
            8,
            "its skip has several layers",
        ),
    ],
)
def test_a_sum_that_is_no_module_is_listed_with_the_reason(module, last, reason):
    spec, _ = brought(Net(module(), basic(last, last), last=last))
    chain = chain_of(spec)
    assert [link.name for link in chain.links] == ["features.1"]
    (said,) = chain.others.values()
    assert reason in said


def test_an_operator_that_is_not_known_is_named():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(x, 1)

    with pytest.raises(InputError, match="CumSum"):
        from_module(nn.Sequential(Odd(), nn.Flatten()), SHAPE, "odd")


def test_what_cannot_be_traced_says_why():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("needs a mask")

    with pytest.raises(InputError, match=r"broken cannot be traced with images of 3 x 16 x 16: needs a mask"):
        from_module(Broken(), SHAPE, "broken")


def test_outputs_that_are_no_row_of_numbers_are_tensors():
    found = from_module(nn.Conv2d(3, 4, 3), SHAPE, "net")
    assert (found.gives, found.told) == ({"logits": (4, 14, 14)}, "tensors")


def test_outputs_that_are_not_told_apart_by_image_are_refused():
    with pytest.raises(InputError, match="net cannot be run on two images at once"):
        from_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(0)), SHAPE, "net")


def test_the_structure_holds_no_weights():
    from edgeres.graph.structure import unpacked, weight_shapes

    spec, weights = net("basic")[1:]
    structure = unpacked(spec.structure)
    stored = [tensor for tensor in structure.graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    assert sum(int(np.prod(tensor.dims)) for tensor in stored) < 10
    assert weight_shapes(structure).keys() == {key for key in weights if not key.endswith("num_batches_tracked")}


def test_a_network_that_counts_its_images_is_refused_in_one_line():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.head = nn.Parameter(torch.zeros(1, 3, 16)), nn.Linear(16, 10)

        def forward(self, x):
            return self.head(torch.cat([self.token.expand(len(x), -1, -1), x.mean(2)], 1).mean(1))

    with pytest.raises(InputError, match=r"traced with 2 images and fails on 3: it depends on their number"):
        from_module(Counts(), SHAPE, "counts")


def test_outputs_of_zero_are_said_to_prove_nothing(tmp_path):
    module = NETS["basic"]()
    nn.init.zeros_(module.head.weight)
    nn.init.zeros_(module.head.bias)
    spec, weights = brought(module)
    checkpoint = save_checkpoint(weights, spec, tmp_path / "a.safetensors", stage="import")
    done = export(checkpoint, ExportConfig(), tmp_path / "out")
    assert done.report.results["max_relative_difference"] == 0
    assert "all outputs are 0 on 8 random images: that both agree proves nothing" in done.report.warnings
