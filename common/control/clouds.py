"""Point clouds of a MuJoCo scene by ray casting: no OpenGL, the same bits everywhere it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PointCloud:
    """A depth camera that looks at the workspace, and what is kept of its points (metres)."""

    eye: tuple[float, float, float] = (0.75, 0.1, 0.75)  # position of the camera
    target: tuple[float, float, float] = (0.0, 0.68, 0.08)  # point in the middle of the image
    field_of_view: float = 32.0  # degrees, vertical and horizontal
    resolution: int = 48  # rays per side
    low: tuple[float, float, float] = (-0.35, 0.35, 0.005)  # workspace; the table top is z = 0
    high: tuple[float, float, float] = (0.35, 1.0, 0.35)
    points: int = 128  # kept by farthest-point sampling


class Camera:
    """The rays of a :class:`PointCloud`, computed once."""

    def __init__(self, config: PointCloud) -> None:
        self.config = config
        eye, target = np.asarray(config.eye, float), np.asarray(config.target, float)
        forward = (target - eye) / np.linalg.norm(target - eye)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        up = np.cross(right, forward)
        half = np.tan(np.radians(config.field_of_view) / 2)
        axis = (np.arange(config.resolution) + 0.5) / config.resolution * 2 - 1
        rays = (
            forward + half * axis[None, :, None] * right - half * axis[:, None, None] * up
        ).reshape(-1, 3)
        self._rays = np.ascontiguousarray(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
        self._flat = self._rays.ravel()
        self._geoms = np.empty(len(rays), np.int32)
        self._distances = np.empty(len(rays), np.float64)
        self._eye = eye
        self._low, self._high = np.asarray(config.low), np.asarray(config.high)
        # what a renderer shows (no collision hulls), without group 0: floor and retaining walls
        self._groups = np.array([0, 1, 1, 0, 0, 0], np.uint8)

    def surface(self, model: Any, data: Any) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """All points inside the workspace [n, 3] and the geoms [n] they lie on."""
        import mujoco

        mujoco.mj_multiRay(
            model, data, self._eye, self._flat, self._groups, 1, -1,
            self._geoms, self._distances, len(self._rays), 10.0,
        )  # fmt: skip
        points = self._eye + self._distances[:, None] * self._rays
        inside = (self._distances > 0) & ((points >= self._low) & (points <= self._high)).all(-1)
        return points[inside], self._geoms[inside]

    def see(self, model: Any, data: Any) -> Floats:
        """Point cloud [points, 3]; zeros if nothing is in the workspace."""
        points, _ = self.surface(model, data)
        if not len(points):
            return np.zeros((self.config.points, 3), np.float32)
        return points[farthest_points(points, self.config.points)].astype(np.float32)


def farthest_points(points: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of ``count`` points, each the farthest from those before it.

    Starts at the point nearest to the centroid; ties go to the lower index, so the result is
    deterministic. With fewer points than ``count`` they are repeated in order.
    """
    n = len(points)
    if n <= count:
        return np.arange(count, dtype=np.int64) % n
    chosen = np.empty(count, np.int64)
    x, y, z = np.ascontiguousarray(points.T)
    spread = points - points.mean(0)
    current = int((spread * spread).sum(-1).argmin())
    nearest = np.full(n, np.inf)
    for k in range(count):
        chosen[k] = current
        dx, dy, dz = x - x[current], y - y[current], z - z[current]
        np.minimum(nearest, dx * dx + dy * dy + dz * dz, out=nearest)
        current = int(nearest.argmax())
    return chosen
