"""Samplers against the laws that exact denoisers must give, schedules against closed forms."""

import numpy as np
import pytest
import torch

from common.control.diffusion import (
    cosine_schedule,
    ddim,
    ddpm,
    dpm_solver,
    dropped,
    epsilon_of,
    guided,
    noised,
    uniform_in_snr,
    vp_schedule,
    x0_of,
)

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'control'")
MEAN, STD = 1.0, 0.5


def exact(schedule, mean=MEAN, std=STD, predicts="epsilon"):
    """The optimal denoiser of data N(mean, std^2): affine in x."""

    def denoise(x, n):
        alpha, sigma = schedule.rates(n, x)
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return x0 if predicts == "sample" else epsilon_of(schedule, x, x0, n)

    return denoise


def law(sampler, schedule, start=(0.0, 1.0), **options):
    """Mean and variance of what an affine sampler makes of its start and its noises, exactly.

    ``start``: mean and standard deviation at the first step.
    """
    N = len(schedule)
    x = torch.full((N + 1,), start[0], dtype=torch.float64)  # row 0: no noise; 2 …: each draw
    x[1] += start[1]
    if sampler is ddpm:
        draws = iter(torch.eye(N + 1, dtype=torch.float64)[2:])
        options["noise"] = lambda: next(draws)
    denoise = exact(schedule, predicts=options.get("predicts", "epsilon"))
    out = sampler(denoise, x, schedule, **options)
    return out[0].item(), (out[1:] - out[0]).square().sum().item()


def diffused(schedule):
    """Mean and standard deviation of the data at the last step."""
    bar = schedule.alphas_cumprod[-1]
    return bar**0.5 * MEAN, (bar * STD**2 + 1 - bar) ** 0.5


def test_few_ancestral_steps_have_the_law_worked_out_by_hand():
    # data N(1, .25), N = 10 and 20, beta from .1 to 10
    mean, variance = law(ddpm, vp_schedule(10, 0.1, 10.0))
    assert mean == pytest.approx(0.99839, abs=1e-4)
    assert variance == pytest.approx(0.13268, abs=1e-4)
    assert law(ddpm, vp_schedule(20, 0.1, 10.0))[1] == pytest.approx(0.17166, abs=1e-4)


@pytest.mark.parametrize("predicts", ["epsilon", "sample"])
@pytest.mark.parametrize("schedule", [vp_schedule(1000), cosine_schedule(1000)], ids=["vp", "cos"])
@pytest.mark.parametrize(
    ("sampler", "options", "within"),
    [(ddpm, {}, 6e-3), (ddim, {"steps": 500}, 6e-3), (dpm_solver, {"steps": 100}, 1e-3)],
    ids=["ddpm", "ddim", "dpm"],
)
def test_with_many_steps_every_sampler_has_the_datas_law(
    sampler, options, within, schedule, predicts
):
    mean, variance = law(sampler, schedule, diffused(schedule), predicts=predicts, **options)
    assert mean == pytest.approx(MEAN, abs=within)
    assert variance**0.5 == pytest.approx(STD, abs=within)


def test_errors_fall_with_the_order_of_the_solver():
    schedule = vp_schedule(10_000)

    def errors(sampler, counts):
        return [
            abs(law(sampler, schedule, diffused(schedule), steps=s)[1] ** 0.5 - STD) for s in counts
        ]

    first, second = errors(ddim, (20, 40)), errors(dpm_solver, (20, 40))
    assert first[0] / first[1] == pytest.approx(2, abs=0.5)
    assert second[0] / second[1] == pytest.approx(4, abs=1.5)
    assert second[0] < first[0]


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_a_single_point_is_found_in_any_number_of_steps(steps):
    schedule = cosine_schedule(200)
    point = torch.tensor([2.5, -1.0, 0.0], dtype=torch.float64)
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def denoise(x, n):
        return epsilon_of(schedule, x, point, n)

    assert torch.allclose(ddim(denoise, start, schedule, steps), point.expand(4, 3), atol=1e-3)
    if steps > 1:
        found = dpm_solver(denoise, start, schedule, steps)
        assert torch.allclose(found, point.expand(4, 3), atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.6])
def test_ancestral_sampling_is_that_of_diffusers(clip):
    schedule = cosine_schedule(30)
    start = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    denoise = exact(schedule)
    generator = torch.Generator().manual_seed(2)
    ours = ddpm(denoise, start, schedule, lambda: torch.randn(5, 2, generator=generator), clip=clip)
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=30,
        trained_betas=schedule.betas,
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    theirs.set_timesteps(30)
    generator, x = torch.Generator().manual_seed(2), start
    for n in theirs.timesteps:
        x = theirs.step(denoise(x, int(n)), n, x, generator=generator).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


def test_ddim_by_its_formula_clips_x0_and_keeps_epsilon():
    schedule, clip = cosine_schedule(20), 0.7
    bar = np.append(schedule.alphas_cumprod, 1.0)  # [-1]: nothing is left to be removed
    denoise = exact(schedule)
    x = torch.linspace(-2, 2, 7, dtype=torch.float64)
    wanted = x
    for n, before in ((19, 14), (14, 9), (9, 4), (4, -1)):
        epsilon = denoise(wanted, n)
        x0 = x0_of(schedule, wanted, epsilon, n).clamp(-clip, clip)
        wanted = bar[before] ** 0.5 * x0 + (1 - bar[before]) ** 0.5 * epsilon
    found = ddim(denoise, x, schedule, 4, clip=clip)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, ddim(denoise, x, schedule, 4), atol=1e-2)
    assert dpm_solver(denoise, x, schedule, 5, clip=clip).abs().max() <= clip


@pytest.mark.parametrize("sampler", [ddpm, ddim, dpm_solver])
def test_what_is_projected_is_so_at_every_step(sampler):
    schedule = vp_schedule(12)
    options = {"noise": lambda: torch.ones(3, 2)} if sampler is ddpm else {"steps": 4}
    seen = []

    def denoise(x, n):
        seen.append((n, x[:, 0].clone()))
        return exact(schedule)(x, n)

    def project(x):
        return torch.cat((torch.full_like(x[:, :1], 7.0), x[:, 1:]), 1)

    out = sampler(denoise, torch.zeros(3, 2), schedule, project=project, **options)
    assert all((first == 7).all() for _, first in seen) and (out[:, 0] == 7).all()
    assert [n for n, _ in seen] == sorted({n for n, _ in seen}, reverse=True)
    assert len(seen) == (12 if sampler is ddpm else 4)


def test_gradients_pass_through_the_whole_chain():
    schedule = vp_schedule(10, 0.1, 10.0)
    shift = torch.zeros(1, requires_grad=True)
    out = ddpm(
        lambda x, n: exact(schedule, predicts="sample")(x, n) + shift,
        torch.zeros(4, 1),
        schedule,
        lambda: torch.zeros(4, 1),
        predicts="sample",
    )
    (gradient,) = torch.autograd.grad(out.sum(), shift)
    assert gradient.item() > 4  # the last prediction alone gives 4


def test_schedules_are_their_closed_forms():
    bar = vp_schedule(10, 0.1, 10.0).alphas_cumprod
    t = np.arange(1, 11) / 10
    assert bar == pytest.approx(np.exp(-0.1 * t - 9.9 * t**2 / 2), rel=1e-12)
    assert bar[-1] == pytest.approx(0.00641, abs=5e-6)
    for n, first, last in ((100, 0.99936872, 2.4e-7), (200, 0.99974503, 6.1e-8)):
        bar = cosine_schedule(n).alphas_cumprod
        assert bar[0] == pytest.approx(first, abs=5e-9) and bar[-1] == pytest.approx(last, rel=0.02)
        assert (np.diff(bar) < 0).all()


def test_noise_and_data_are_told_apart_again():
    schedule = cosine_schedule(50)
    g = torch.Generator().manual_seed(0)
    x0, epsilon = (torch.randn(2, 6, 3, generator=g, dtype=torch.float64) for _ in range(2))
    n = torch.randint(50, (2, 6), generator=g)  # a step per row of each seed
    x = noised(schedule, x0, epsilon, n)
    bar = torch.from_numpy(schedule.alphas_cumprod)[n][..., None]
    torch.testing.assert_close(x, bar.sqrt() * x0 + (1 - bar).sqrt() * epsilon)
    torch.testing.assert_close(x0_of(schedule, x, epsilon, n), x0, rtol=0, atol=1e-6)
    torch.testing.assert_close(epsilon_of(schedule, x, x0, n), epsilon, rtol=0, atol=1e-6)


def test_guidance_at_its_ends_and_beyond():
    u, c = torch.tensor([1.0]), torch.tensor([3.0])
    assert [guided(u, c, w).item() for w in (0.0, 1.0, 1.5)] == [1.0, 3.0, 4.0]
    uniform = torch.tensor([0.1, 0.25, 0.9])
    conditions, kept = dropped(torch.ones(3, 2), 0.25, uniform)
    assert kept[:, 0].tolist() == [0, 1, 1] and conditions.tolist() == [[0, 0], [1, 1], [1, 1]]


@pytest.mark.parametrize("schedule", [vp_schedule(1000), cosine_schedule(200)], ids=["vp", "cos"])
@pytest.mark.parametrize("steps", [2, 15, 150])
def test_grids_of_the_solver(schedule, steps):
    grid = uniform_in_snr(schedule, steps)
    assert len(grid) == len(set(grid)) == steps and grid == sorted(grid, reverse=True)
    assert grid[0] == len(schedule) - 1 and grid[-1] == 0
    if steps == 15 and len(schedule) == 1000:  # the cosine's last steps are far apart
        bar = schedule.alphas_cumprod[grid]
        gaps = np.diff(0.5 * np.log(bar / (1 - bar)))
        assert gaps.max() < 1.6 * np.median(gaps)


def test_impossible_numbers_of_steps_are_refused():
    schedule = vp_schedule(10)
    with pytest.raises(ValueError, match="do not divide"):
        ddim(exact(schedule), torch.zeros(1), schedule, 3)
    with pytest.raises(ValueError, match="cannot be chosen"):
        uniform_in_snr(schedule, 11)
