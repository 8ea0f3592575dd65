"""The networks are the papers' networks, and dropping a module is zeroing its branch."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeres.core.errors import InputError
from edgeres.models import FAMILIES, family_named, modules_of, network_from, spec_from_arch
from edgeres.models.family import ORDERINGS
from edgeres.models.weights import cost_of, expected_shapes, weights_without

# He et al. 2015, table 6 (rounded there to 0.27, 0.46, 0.66, 0.85 and 1.7 million), and torchvision's documentation
PARAMS = {
    ("resnet20", 10): 269_722,
    ("resnet32", 10): 464_154,
    ("resnet44", 10): 658_586,
    ("resnet56", 10): 853_018,
    ("resnet110", 10): 1_727_962,
    ("resnet18", 1000): 11_689_512,
    ("resnet34", 1000): 21_797_672,
    ("resnet50", 1000): 25_557_032,
    ("resnet101", 1000): 44_549_160,
    ("resnet152", 1000): 60_192_808,
}
RESIDUAL = [("resnet8", ordering, shortcut, {}) for ordering in ORDERINGS for shortcut in "ABC"]
RESIDUAL += [("fcresnet8", ordering, "B", {}) for ordering in ORDERINGS]
RESIDUAL += [
    ("resnet18", "original", "B", {"width": 8}),
    ("resnet50", "original", "B", {"width": 8}),
    ("resnet50", "full-preact", "A", {"width": 8}),
    ("resnet5", "original", "A", {"layers": 1}),
    ("resnet11", "original", "B", {"layers": 3}),
    ("resnet11", "bn-after-add", "A", {"layers": 3, "bottleneck": 1}),
]


@pytest.mark.parametrize(("arch", "classes"), PARAMS)
def test_parameter_counts_equal_the_published_ones(arch, classes):
    assert cost_of(spec_from_arch(arch, num_classes=classes)).params == PARAMS[arch, classes]


@pytest.mark.covering(1)
@pytest.mark.parametrize(("arch", "ordering", "shortcut", "more"), RESIDUAL)
def test_multiply_accumulates_are_half_the_operations_torch_counts(arch, ordering, shortcut, more):
    spec = spec_from_arch(arch, num_classes=10, options={"ordering": ordering, "shortcut": shortcut, **more})
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network_from(spec).eval()(torch.zeros(1, *spec.input_shape))
    assert cost_of(spec).macs == counter.get_total_flops() / 2


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_imagenet_keys_and_shapes_are_torchvisions(depth):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}").state_dict()
    ours = expected_shapes(spec_from_arch(f"resnet{depth}", num_classes=1000))
    assert ours == {key: tuple(tensor.shape) for key, tensor in theirs.items()}


def test_resnet18_computes_what_torchvisions_does():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    ours = network_from(spec_from_arch("resnet18", num_classes=1000)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


def shaken(spec, seed=0):
    """The network of `spec` in evaluation mode with batch-norm statistics and gains that are not trivial."""
    torch.manual_seed(seed)
    network = network_from(spec).eval()
    for key, tensor in network.state_dict().items():
        if key.endswith("running_mean") or (".bn" in key and key.endswith("bias")):
            tensor.normal_(0, 0.3)
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return network


@contextlib.contextmanager
def zeroed_branch(network, names):
    """Makes F(x) zero in the named modules, by their own means."""
    named = [unit for name, unit in network.units() if name in names]
    for unit in named:
        unit.branch = lambda x, unit=unit: torch.zeros_like(unit.shortcut(x))
    yield
    for unit in named:
        del unit.branch


@pytest.mark.covering(2)
@pytest.mark.parametrize(("arch", "ordering", "shortcut", "more"), RESIDUAL)
def test_dropping_any_modules_equals_zeroing_their_branches(arch, ordering, shortcut, more):
    spec = spec_from_arch(
        arch,
        num_classes=10,
        input_shape=(3, 16, 16),
        options={"ordering": ordering, "shortcut": shortcut, **more},
    )
    whole = shaken(spec)
    images = torch.randn(3, 3, 16, 16)
    names = [info.name for info in modules_of(spec)]
    sets = [(name,) for name in names] + list(itertools.combinations(names[:3], 2)) + [tuple(names)]
    for dropped in sets:
        shorter_spec = spec.without(dropped)
        shorter = network_from(shorter_spec).eval()
        shorter.load_state_dict(weights_without(whole.state_dict(), shorter_spec))
        with zeroed_branch(whole, dropped), torch.inference_mode():
            assert torch.equal(shorter(images), whole(images)), dropped


@pytest.mark.parametrize("arch", ["plain8", "vgg11", "resnet8", "fcresnet8"])
def test_dropping_equals_bypassing_in_every_family(arch, spec_of):
    spec = spec_of(arch, channels=3)
    whole = shaken(spec)
    images = torch.randn(2, 3, 8, 8)
    for info in modules_of(spec):
        shorter = network_from(spec.without((info.name,))).eval()
        shorter.load_state_dict(weights_without(whole.state_dict(), spec.without((info.name,))))
        with torch.inference_mode():
            x = whole.stem(images)
            for name, unit in whole.units():
                x = unit.bypass(x) if name == info.name else unit(x)
            assert torch.equal(shorter(images), whole.classify(whole.tail(x))), info.name


def test_a_dropped_module_leaves_the_names_of_the_others_alone():
    spec = spec_from_arch("resnet20", num_classes=10)
    keys = expected_shapes(spec.without(("layer1.1", "layer3.0")))
    assert not any(key.startswith("layer1.1.") for key in keys)
    assert {"layer1.0.conv1.weight", "layer1.2.conv1.weight", "layer3.2.bn2.bias"} <= keys.keys()


def test_every_family_trains_a_step():
    for family in FAMILIES:
        arch = family_named(family).variants[0]
        network = network_from(spec_from_arch(arch, num_classes=10, input_shape=(3, 16, 16))).train()
        loss = torch.nn.functional.cross_entropy(network(torch.randn(4, 3, 16, 16)), torch.arange(4))
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("resnet21", {}, "depth 6n"),
        ("resnet", {}, "unknown architecture"),
        ("resnt20", {}, "did you mean resnet20"),
        ("vgg12", {}, "unknown variant"),
        ("vgg11", {"shortcut": "A"}, "has no options"),
        ("resnet20", {"shortcut": "D"}, "shortcut"),
        ("resnet20", {"ordering": "none"}, "ordering"),
        ("resnet20", {"shortcuts": "A"}, "did you mean shortcut"),
        ("fcresnet20", {"bottleneck": 1, "layers": 3}, "bottleneck"),
    ],
)
def test_impossible_networks_are_refused_in_words(arch, options, message):
    with pytest.raises(InputError, match=message):
        spec_from_arch(arch, num_classes=10, options=options)


def test_unknown_and_twice_dropped_modules_are_refused():
    spec = spec_from_arch("resnet20", num_classes=10)
    with pytest.raises(InputError, match=r"did you mean layer1\.1"):
        network_from(spec.without(("layer1.11",)))
