"""The CUDA device of the tests computes what the CPU does and raises what a GPU would."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.stacked import MLP, adam, randn, seed_generators
from common.torch_utils import cumulative_probability, cumulative_sum
from tests.fake_cuda import fake_cuda


@pytest.fixture(autouse=True)
def _as_pytorch_begins() -> Iterator[None]:
    """Without deterministic mode, which a test that ran before may have left switched on."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before)


def trained(device: str) -> list[Tensor]:
    """Weights after some steps of a network that is moved to the device."""
    net = MLP(seed_generators((0, 1), 0), (3, 8, 1))
    parameters = list(net.parameters())  # taken before the move, as is allowed
    net.to(device)
    optimiser = adam([{"params": parameters}])
    generators = seed_generators((0, 1), 1, device)
    for _ in range(5):
        x = randn(generators, 16, 3)
        loss = (net(x) - x.prod(-1, keepdim=True)).square().mean((1, 2))
        if not bool(loss.isfinite().all()):
            break
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    kept = copy.deepcopy(net)
    kept.load_state_dict({name: w.cpu() for name, w in net.state_dict().items()})
    assert all(p.device.type == torch.device(device).type for p in kept.parameters())
    return [p.detach().cpu() for p in kept.parameters()]


def test_training_gives_the_cpus_numbers() -> None:
    expected = trained("cpu")
    with fake_cuda():
        assert torch.cuda.is_available()
        found = trained("cuda")
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert torch.Generator().device.type == "cpu" and torch.zeros(1).device.type == "cpu"


def test_lists_and_arrays_are_indices() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    with fake_cuda():
        on_cuda = x.to("cuda")
        for index in ([0, 2], (slice(None), [1, 3]), np.array([2]), [True, False, True]):
            assert torch.equal(on_cuda[index].cpu(), x[index])
        on_cuda[[0, 2]] = -1.0
        assert torch.equal(on_cuda.cpu(), torch.where(torch.tensor([[1], [0], [1]]) > 0, -1.0, x))


def test_views_and_writes_reach_the_same_memory() -> None:
    with fake_cuda():
        x = torch.zeros(3, 4, device="cuda")
        x[1].add_(1.0)
        x[:, 2] = torch.arange(3.0)  # a copy from the CPU is one
        x[torch.tensor([True, False, False])] = 5.0  # an index may be on the CPU
        assert x.tolist() == [[5] * 4, [1, 1, 1, 1], [0, 0, 2, 0]]
        assert x[x > 4].shape == (4,) and int(x.sum()) == 26 and x.cpu().numpy().sum() == 26
        x.data = x.data[:2].clone()
        assert (x + 1).shape == (2, 4) and (x + 1).tolist()[1] == [2] * 4
        y = torch.as_tensor(np.ones(3), dtype=torch.float32, device=x.device)
        assert y.is_cuda and str(y.device) == "cuda:0" and not y.cpu().is_cuda


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda gpu, cpu: gpu + cpu,
    "product": lambda gpu, cpu: gpu @ cpu,
    "write to the CPU": lambda gpu, cpu: cpu.add_(gpu),
    "joined": lambda gpu, cpu: torch.stack([gpu.sum(), cpu.sum()]),
    "index of the CPU's": lambda gpu, cpu: cpu[torch.tensor([0], device="cuda")],
    "layer": lambda gpu, cpu: nn.Linear(3, 2)(gpu),
    "gather": lambda gpu, cpu: gpu.gather(0, cpu.long()),
    "loss": lambda gpu, cpu: nn.functional.mse_loss(gpu, cpu),
}


@pytest.mark.parametrize("name", MIXED)
def test_tensors_of_two_devices_are_refused(name: str) -> None:
    with fake_cuda():
        gpu, cpu = torch.ones(3, 3, device="cuda"), torch.ones(3, 3)
        assert (gpu * torch.tensor(2.0)).sum() == 18  # a number may come from the CPU
        with pytest.raises(RuntimeError, match="same device|on the CPU"):
            MIXED[name](gpu, cpu)


def test_generators_belong_to_a_device() -> None:
    with fake_cuda():
        gpu, cpu = torch.Generator("cuda").manual_seed(1), torch.Generator().manual_seed(1)
        assert gpu.device.type == "cuda"
        drawn = torch.rand(3, generator=gpu, device="cuda")
        assert torch.equal(drawn.cpu(), torch.rand(3, generator=cpu))
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=cpu, device="cuda")
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=gpu)


def test_what_has_no_deterministic_kernel_is_refused() -> None:
    with fake_cuda():
        x = torch.rand(2, 5, device="cuda")
        x.cumsum(-1)
        torch.use_deterministic_algorithms(True)
        for operation in (
            lambda: x.cumsum(-1),
            lambda: x.kthvalue(2),
            lambda: x.median(dim=1),
            lambda: nn.functional.cross_entropy(
                x.view(1, 5, 2), torch.zeros(1, 2, dtype=torch.long, device="cuda")
            ),
        ):
            with pytest.raises(RuntimeError, match="deterministic implementation"):
                operation()
        assert (x > 0).cumsum(-1)[0, -1] == 5  # whole numbers are fine
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(x)
    assert not torch.are_deterministic_algorithms_enabled()


def test_cumulative_sums_on_a_gpu() -> None:
    """common.torch_utils' sums: differentiable, or never rising over an index of probability 0."""
    g = torch.Generator().manual_seed(0)
    p = torch.rand(200, 30, generator=g).square()
    p = p.masked_fill(torch.rand(p.shape, generator=g) < 0.5, 0.0)
    p = p / p.sum(-1, keepdim=True)
    with fake_cuda():
        torch.use_deterministic_algorithms(True)
        on_gpu = p.to("cuda").requires_grad_()
        total = cumulative_sum(on_gpu)
        (total * torch.arange(30.0, device="cuda")).sum().backward()
        grad, total = on_gpu.grad.cpu(), total.detach().cpu()
        cdf = cumulative_probability(on_gpu.detach()).cpu()
    on_cpu = p.clone().requires_grad_()
    (cumulative_sum(on_cpu) * torch.arange(30.0)).sum().backward()
    torch.testing.assert_close(total, p.cumsum(-1))
    torch.testing.assert_close(grad, on_cpu.grad)
    torch.testing.assert_close(cdf, p.cumsum(-1))
    rises = cdf.diff(dim=-1, prepend=torch.zeros(200, 1))
    assert (rises >= 0).all() and (rises[p == 0] == 0).all()
    assert torch.equal(cumulative_probability(p), p.cumsum(-1))
