"""The head stage: the detail head fitted on pixels of the frozen backbone."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medsaga.computing import evaluating, free_memory, peak_memory
from medsaga.detail_head import PixelFit, sample_pyramid
from medsaga.events import Event, Preview, Progress, Stage

if TYPE_CHECKING:
    from collections.abc import Generator

    from medsaga.training.session import Session

_VIEWS_PER_SLICE = 12
_PIXELS_PER_CLASS = 400
_BACKGROUND_PIXELS = 1200
_FEATURE_BYTES = 2  # bf16
_MOST_VIEWS_PER_SLICE = 40  # when the head stage has the whole time
_FEWEST_VIEWS = 4
# Views and fit have this long, or this part of the training. Where a computer is slow,
# views are worth more than steps of the GaLore stage, of which it has too few.
_VIEW_SECONDS, _VIEW_SHARE = 6.0, 0.25
_FIT_SECONDS, _FIT_SHARE = 6.0, 0.1
_FIT_STEPS_PER_VIEW = 15
_FIT_STEPS, _FEWEST_FIT_STEPS, _MEASURED_FIT_STEPS = 600, 200, 10
# A first look, so that a preview stands within ten seconds of the call: a fit on the
# views so far or, where they are nearly done, the fit on all of them as far as it is.
_LOOK_AT, _LOOK_AT_FIT, _LOOK_STEPS = 5.0, 7.0, 300
_LOOK_SECONDS, _FEWEST_LOOK_STEPS = 1.5, 50
_NEARLY_DONE_SECONDS = 1.5


def run_head_stage(session: Session) -> Generator[Event, None, None]:
    """Fit the detail head and the decoder's linear map; yields progress and previews.

    Features of single pixels are sampled from augmented views of each slice and kept
    in bf16; whole pyramids never are. If all this takes long, a first preview comes
    before its end, of which nothing remains in what is fitted.
    """
    started = time.monotonic()
    yield from _run(session, session.settings.head_views or _plan_views(session))
    session.head_seconds = time.monotonic() - started


def refit_head(session: Session) -> Generator[Event, None, None]:
    """Fit the head anew to what the backbone's features have become.

    In few steps the encoder moves away from the head faster than the head can follow,
    and what it has learned shows only once a head is fitted to it.
    """
    yield from _run(session, session.settings.head_views)


def _run(session: Session, n_views: int) -> Generator[Event, None, None]:
    pixels = _Pixels(session, n_views)
    yield from _sample_views(session, pixels)
    yield from _fit(session, _start_fit(session, *pixels.sampled()))


def _look(
    session: Session, pixels: _Pixels, reached: Progress
) -> Generator[Event, None, None]:
    """Fit on half of the pixels so far, which it copies; repeats where sampling is."""
    features, targets = pixels.sampled()
    fit = _start_fit(session, features[::2].clone(), targets[::2])
    started = time.monotonic()
    for step in range(_LOOK_STEPS):
        fit.step()
        if step % 20 == 0:
            yield reached
        is_late = time.monotonic() - started >= _LOOK_SECONDS
        if is_late and step >= _FEWEST_LOOK_STEPS:
            break
    yield _use(session, fit)


def _start_fit(session: Session, features: Tensor, targets: Tensor) -> PixelFit:
    return PixelFit(
        features,
        targets,
        channels=_channels(session),
        n_classes=session.network.n_classes,
        learning_rate=session.settings.head_fit_lr,
        seed=session.settings.seed,
    )


def _use(session: Session, fit: PixelFit) -> Preview:
    """Write a fit into the network, and show what it gives."""
    head = session.network.detail_head
    assert head is not None
    session.network.decoder.start_from_linear_map(fit.write_to(head))
    session.is_usable = True
    return session.preview("head")


def _fit(session: Session, fit: PixelFit) -> Generator[Event, None, None]:
    started, step = time.monotonic(), 0
    total = session.settings.head_steps
    while not total or step < total:
        loss = fit.step()
        step += 1
        per_step = (time.monotonic() - started) / step
        if not total and step == _MEASURED_FIT_STEPS:
            total = _plan_fit_steps(session, per_step)
            session.plan(head_steps=total)
        if total and (step % 20 == 0 or step == total):
            left = per_step * (total - step)
            yield _progress(session, "head", step, total, loss, left)
        is_due = step >= _LOOK_STEPS // 2 and session.seconds >= _LOOK_AT_FIT
        if is_due and not session.is_usable:
            yield _use(session, fit)
    yield _use(session, fit)


def _plan_fit_steps(session: Session, seconds_per_step: float) -> int:
    """Plan the usual number of steps, fewer on a slow computer.

    A head that is trained alone, for minutes, has the whole time.
    """
    settings = session.settings
    if settings.stages == "head" and not settings.steps:
        affordable = int(session.seconds_left / seconds_per_step)
        return max(_FIT_STEPS, affordable)
    allowed = max(_FIT_SECONDS, _FIT_SHARE * settings.minutes * 60)
    usual = max(_FIT_STEPS, _FIT_STEPS_PER_VIEW * settings.head_views)
    return min(usual, max(_FEWEST_FIT_STEPS, int(allowed / seconds_per_step)))


class _Pixels:
    """The features and classes of the pixels sampled from a number of views."""

    def __init__(self, session: Session, n_views: int) -> None:
        n_features = sum(_channels(session))
        self.quota = _PixelQuota.within(session, n_views, n_features)
        session.plan(head_views=n_views, feature_cache_mb=self.quota.budget_mb)
        size, device = n_views * self.quota.total, session.device
        self._features = torch.empty(
            size, n_features, dtype=torch.bfloat16, device=device
        )
        self._targets = torch.empty(size, dtype=torch.long, device=device)
        self._n = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        end = self._n + len(targets)
        self._features[self._n : end] = features
        self._targets[self._n : end] = targets
        self._n = end

    def sampled(self) -> tuple[Tensor, Tensor]:
        """Give the (n, features) and the (n,) classes sampled so far."""
        return self._features[: self._n], self._targets[: self._n]


def _sample_views(session: Session, pixels: _Pixels) -> Generator[Event, None, None]:
    """Sample pixels' features from views: each slice as it is, then augmented ones."""
    total = session.settings.head_views
    order = np.random.default_rng(session.settings.seed).permutation(
        len(session.training)
    )
    augment = session.augmenter()
    started = time.monotonic()
    for view in range(total):
        sample = session.training[order[view % len(order)]]
        image, target = sample.image, sample.target
        if view >= len(order):
            image, target = augment(image, target, view, sample.content)
        points = pixels.quota.draw(target, view)
        if len(points):  # a few strokes may all have moved out of the view
            of_points = target[points[:, 0], points[:, 1]]
            pixels.add(_features_at(session, image, points), of_points)
        seconds = time.monotonic() - started
        left = seconds / (view + 1) * (total - view - 1)
        reached = _progress(session, "features", view + 1, total, math.nan, left)
        yield reached
        is_due = view + 1 >= _FEWEST_VIEWS and session.seconds >= _LOOK_AT
        if is_due and not session.is_usable and left > _NEARLY_DONE_SECONDS:
            yield from _look(session, pixels, reached)


def _plan_views(session: Session) -> int:
    """Plan as many views as the time allows, measured on one of them."""
    settings, image = session.settings, session.training[0].image
    point = torch.zeros(1, 2, dtype=torch.long)
    _features_at(session, image, point)  # the first one compiles kernels
    started = time.monotonic()
    _features_at(session, image, point)
    seconds = time.monotonic() - started
    per_slice = _VIEWS_PER_SLICE
    allowed = max(_VIEW_SECONDS, _VIEW_SHARE * settings.minutes * 60)
    if settings.stages == "head" and not settings.steps:
        per_slice, allowed = _MOST_VIEWS_PER_SLICE, 0.4 * session.seconds_left
    affordable = int(allowed / seconds)
    return max(_FEWEST_VIEWS, min(per_slice * len(session.training), affordable))


def _features_at(session: Session, image: Tensor, points: Tensor) -> Tensor:
    """Return the frozen pyramid's and the decoder's features at pixels of one image."""
    network, images = session.network, session.to_device(image[None])
    assert network.detail_head is not None
    with evaluating(network), session.autocast():
        pyramid = network.backbone(images)
        _, upscaled = network.decoder.decode(pyramid[-1])
        maps = network.detail_head.features(pyramid, images)
    size = (image.shape[-2], image.shape[-1])
    return sample_pyramid([*maps, upscaled], points.to(session.device), size)


def _channels(session: Session) -> list[int]:
    """Channels of each map that features are sampled from, the decoder's last."""
    head = session.network.detail_head
    assert head is not None
    seen_by_head = [level.channels for level in head.levels]
    return [*seen_by_head, session.network.decoder.feature_channels]


@dataclass(frozen=True)
class _PixelQuota:
    """How many pixels of each class one view may give."""

    per_class: int
    background: int
    n_classes: int
    budget_mb: int
    seed: int

    @classmethod
    def within(cls, session: Session, n_views: int, n_features: int) -> _PixelQuota:
        """Take the usual quota, or less where the memory budget asks for it."""
        free_mb = free_memory(session.device) // 4 // 2**20
        budget_mb = max(16, min(session.settings.feature_cache_mb, free_mb))
        n_classes = session.network.n_classes
        usual = _BACKGROUND_PIXELS + _PIXELS_PER_CLASS * (n_classes - 1)
        affordable = budget_mb * 2**20 // (n_views * n_features * _FEATURE_BYTES)
        part = min(1.0, affordable / usual)
        return cls(
            per_class=max(1, int(part * _PIXELS_PER_CLASS)),
            background=max(1, int(part * _BACKGROUND_PIXELS)),
            n_classes=n_classes,
            budget_mb=budget_mb,
            seed=session.settings.seed,
        )

    @property
    def total(self) -> int:
        """Most pixels that one view can give."""
        return self.background + self.per_class * (self.n_classes - 1)

    def draw(self, target: Tensor, view: int) -> Tensor:
        """Draw pixels of one view: (n, 2) rows and columns."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + view)
        drawn = []
        for index in range(self.n_classes):
            pixels = (target == index).nonzero()
            quota = self.per_class if index else self.background
            drawn.append(
                pixels[torch.randperm(len(pixels), generator=generator)[:quota]]
            )
        return torch.cat(drawn)


def _progress(
    session: Session,
    stage: Stage,
    step: int,
    total: int,
    loss: float,
    seconds_left: float,
) -> Progress:
    return Progress(
        stage=stage,
        step=step,
        total=total,
        loss=loss,
        learning_rate=session.settings.head_fit_lr,
        seconds_left=seconds_left,
        peak_memory=peak_memory(session.device),
    )
