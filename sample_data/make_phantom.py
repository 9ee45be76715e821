"""Make the bundled sample: a synthetic portal-phase CT of the upper abdomen.

Usage: ``python make_phantom.py [--out DIR] [--seed N]``. Needs numpy, scipy, nibabel.

The anatomy is drawn on a grid twice as fine as the result, in mm: x to the patient's
right, y to the front, z to the head. A shape is an array of approximate distances to
its surface, negative inside. Later paint covers earlier paint. Averaging to the final
grid and blurring give borders their partial volume.
"""

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Tissue = tuple[float, float]
Curve = list[tuple[float, float, float, float]]

SHAPE = (128, 112, 40)
SPACING = (2.8, 2.8, 5.0)
ORIGIN = (-181.3, -160.9, -412.5)  # mm, of the centre of voxel (0, 0, 0)
FINE = 2
CORNER = (-179.0, -169.0, 0.0)  # drawing coordinates of the grid's corner, mm
ANNOTATED = (8, 15, 22, 30, 37)

CLASSES = {
    1: ("spleen", "#9d6ca2"),
    2: ("right kidney", "#4d8fd1"),
    3: ("left kidney", "#f2c14e"),
    5: ("liver", "#dd8265"),
    6: ("stomach", "#6fb8d2"),
    52: ("aorta", "#d7302a"),
}
SPLEEN, KIDNEY_RIGHT, KIDNEY_LEFT, LIVER, STOMACH, AORTA = CLASSES

# Mean HU and the strength of its slow variation.
AIR, FAT, SKIN, MUSCLE = (-1000, 2), (-102, 7), (15, 5), (58, 9)
LUNG, VESSEL, HEART, CAVA = (-840, 35), (158, 5), (118, 7), (140, 8)
CORTICAL, CANCELLOUS, DISC, CANAL = (480, 60), (185, 35), (85, 8), (28, 6)
LIVER_HU, SPLEEN_HU, AORTA_HU, CORTEX = (106, 4), (116, 4), (172, 4), (188, 6)
MEDULLA, PELVIS, BILE, GUT_WALL = (152, 8), (25, 8), (10, 3), (88, 8)
STOMACH_HU, PANCREAS_HU, FOAM, TABLE = (72, 30), (88, 16), (-930, 5), (150, 10)
BOWEL_HU = (35, 110, 160, 75, 45, 125)  # contents in turn along the small bowel

# Curves: control points (x, y, z, radius) in mm.
AORTA_PATH: Curve = [(-16, -12, 215, 13.5), (-13, -8, 150, 13), (-9, -6, 90, 12.5)]
AORTA_PATH += [(-6, -4, 40, 12), (-6, -3, -20, 11)]
CAVA_PATH: Curve = [
    (26, 8, 215, 12),
    (25, -1, 165, 12),
    (22, -6, 110, 11),
    (18, -6, -20, 11),
]
STOMACH_PATH: Curve = [(-52, -34, 192, 17), (-62, -16, 178, 31), (-66, 12, 152, 31)]
STOMACH_PATH += [(-54, 40, 128, 27), (-24, 54, 110, 21), (8, 50, 104, 16)]
STOMACH_PATH += [(30, 38, 110, 10)]
PANCREAS_PATH: Curve = [(36, 14, 82, 13), (28, 20, 98, 12), (0, 22, 110, 9)]
PANCREAS_PATH += [(-34, 6, 120, 9), (-72, -16, 132, 9)]
DUODENUM_PATH: Curve = [
    (32, 38, 108, 11),
    (52, 20, 98, 13),
    (52, 8, 70, 13),
    (26, 12, 50, 11),
]
DUODENUM_PATH += [(-14, 16, 52, 11), (-34, 26, 64, 12)]
COLON_PATH: Curve = [
    (98, -14, -20, 25),
    (100, -8, 40, 24),
    (94, 22, 74, 22),
    (58, 66, 62, 19),
]
COLON_PATH += [(4, 78, 48, 17), (-52, 72, 66, 18), (-84, 56, 116, 17)]
COLON_PATH += [(-100, 42, 156, 17), (-112, 10, 128, 16), (-113, -14, 92, 15)]
COLON_PATH += [(-112, -26, 40, 14), (-108, -22, -20, 14)]
PORTAL_TREE: list[Curve] = [
    [(4, 14, 60, 6), (6, 12, 106, 7), (24, 12, 132, 7), (46, 8, 148, 7)],
    [(46, 8, 148, 7), (64, 0, 153, 6), (80, -8, 156, 5)],
    [(30, 11, 137, 6), (26, 26, 156, 6), (4, 52, 166, 4)],
    [(46, 8, 148, 6), (74, 30, 160, 5), (92, 44, 172, 4)],
    [(4, 12, 106, 5), (-30, -2, 122, 5), (-78, -26, 140, 4)],
]
HEPATIC_VEINS: list[Curve] = [
    [(27, 2, 186, 5), (62, -6, 182, 6), (106, -14, 160, 4)],
    [(27, 4, 186, 5), (54, 34, 178, 6), (74, 60, 150, 4)],
    [(26, 6, 186, 5), (10, 34, 180, 5), (-20, 56, 174, 3)],
]
BRANCHES: list[Curve] = [
    [(-9, 4, 132, 4), (-8, 14, 128, 3), (14, 18, 134, 3)],  # coeliac trunk
    [(-8, 4, 112, 4), (-7, 16, 98, 4), (-2, 18, 20, 3)],  # superior mesenteric artery
    [(4, 20, -20, 5), (5, 18, 60, 6)],  # superior mesenteric vein
    [(20, -8, 84, 5), (-8, 9, 92, 4), (-44, -24, 90, 5)],  # left renal vein
    [(20, -10, 78, 5), (46, -26, 76, 5)],  # right renal vein
]


class Scene:
    """The fine grid: coordinates, HU and labels so far, and the random generator."""

    inside: Field  # mm inwards of the muscle wall
    in_wall: Field  # mm inwards of the fat under the skin
    angle: Field  # around the trunk: 0 at the back, pi at the front
    lung: Field  # mm below the lungs and the heart

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = tuple(n * FINE for n in SHAPE)
        step = [s / FINE for s in SPACING]
        axes = [
            c + d * (np.arange(n) + 0.5)
            for c, d, n in zip(CORNER, step, self.shape, strict=True)
        ]
        grid = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij")
        # One smooth bending of space makes every outline irregular and asymmetric.
        self.x, self.y, self.z = (
            (g + 2.6 * self.noise(60)).astype(np.float32) for g in grid
        )
        self.flat_y = grid[1]
        self.slow, self.mid, self.quick = (self.noise(mm) for mm in (14, 7, 3.5))
        self.texture = 0.7 * (self.slow + self.mid)
        self.hu = np.full(self.shape, AIR[0], np.float32)
        self.label = np.zeros(self.shape, np.uint8)

    def noise(self, scale: float) -> Field:
        """Smooth random field of unit variance that varies over `scale` mm."""
        knots = [max(scale * FINE / s / 1.5, 1) for s in SPACING]  # fine voxels apart
        at = [np.arange(n) / k for n, k in zip(self.shape, knots, strict=True)]
        field = self.rng.standard_normal([int(a[-1]) + 3 for a in at])
        for axis, positions in enumerate(at):
            spline = CubicSpline(np.arange(field.shape[axis]), field, axis)
            field = spline(positions).astype(np.float32)
        field = (field - field.mean()) / field.std()
        return np.asarray(field, np.float32)

    def paint(self, where: Mask, tissue: Tissue, label: int = 0) -> None:
        """Fill `where` with a tissue, its slow variation and a label."""
        mean, spread = tissue
        at = np.flatnonzero(where)  # quicker than a mask, used three times
        self.hu.flat[at] = mean + spread * self.texture.flat[at]
        self.label.flat[at] = label

    def paint_organ(self, shape: Field, tissue: Tissue, label: int, gap: float) -> None:
        """Paint an organ in a coat of fat `gap` mm thick, within the abdomen."""
        self.paint((shape < gap) & (self.inside > 1.5) & (self.lung > 3), FAT)
        self.paint(shape < 0, tissue, label)


def ellipsoid(s: Scene, centre: Sequence[float], radii: Sequence[float]) -> Field:
    """Distance to an ellipsoid, exact only for a ball."""
    parts = zip((s.x, s.y, s.z), centre, radii, strict=True)
    radius = np.sqrt(sum(((g - c) / r) ** 2 for g, c, r in parts))
    return ((radius - 1) * min(radii)).astype(np.float32)


def tubes(
    s: Scene, curves: Sequence[Curve | NDArray[np.float64]]
) -> tuple[Field, Field]:
    """Distance to the nearest of some tubes; how far along it in mm, 0 elsewhere."""
    points, lengths = [], []
    for curve in curves:
        knots = np.asarray(curve, float)
        t = np.r_[0, np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1).cumsum()]
        lengths.append(np.arange(0, t[-1], 1.5))
        points.append(CubicSpline(t, knots, bc_type="natural")(lengths[-1]))
    path, along = np.concatenate(points), np.concatenate(lengths)
    reach = path[:, 3].max() + 8
    low, high = path[:, :3].min(0) - reach, path[:, :3].max(0) + reach
    near = np.ones(s.shape, bool)
    for g, a, b in zip((s.x, s.y, s.z), low, high, strict=True):
        near &= (g > a) & (g < b)
    where = np.stack([s.x[near], s.y[near], s.z[near]], 1)
    distance, index = cKDTree(path[:, :3]).query(where, distance_upper_bound=reach)
    found = np.isfinite(distance)
    index = np.where(found, index, 0)
    shape, position = np.full(s.shape, 99, np.float32), np.zeros(s.shape, np.float32)
    shape[near] = np.where(found, distance - path[index, 3], 99)
    position[near] = np.where(found, along[index], 0)
    return shape, position


def draw_trunk(s: Scene) -> None:
    """Skin, fat, muscle wall, table."""
    height = s.z / 200
    a, b = 160 - 10 * height + 4 * height**2, 112 + 4 * height
    y = s.y + 6 * np.exp(-((s.x / 22) ** 2)) * (s.y < 0)  # the furrow of the back
    rho = (np.abs(s.x / a) ** 2.3 + np.abs(y / b) ** 2.3) ** (1 / 2.3) + 1e-6
    depth = np.hypot(s.x, y) * (1 / rho - 1)
    s.angle = np.arctan2(np.abs(s.x) / a, -y / b)
    flank = np.exp(-(((s.angle - 1.1) / 0.55) ** 2))
    fat = 11 + (1 - height) * (6 + 14 * flank) + 1.2 * s.slow
    back = np.exp(-((s.angle / 0.52) ** 4))
    front = np.exp(-(((s.angle - np.pi) / 0.42) ** 4))
    muscle = 12 + 40 * back - 3 * front - 7 * np.exp(-(((s.angle - 2.35) / 0.25) ** 2))
    s.inside = (depth - fat - muscle).astype(np.float32)
    s.in_wall = depth - fat
    s.paint(depth > 0, FAT)
    s.paint((depth > 0) & (depth < 2.4), SKIN)
    s.paint((s.in_wall > 0) & (s.inside < 0), MUSCLE)
    seam = np.abs(np.mod(s.in_wall, 5.5) - 2.7) < 0.55  # between the flank's layers
    seam &= (s.inside < -1) & (back < 0.02) & (front < 0.1)
    midline = (front > 0.1) & (np.abs(s.x) < 3) & (s.inside < 0)
    s.paint((seam | midline) & (s.in_wall > 2), FAT)
    table = s.flat_y + 128 - s.x**2 / 2600
    s.paint((depth < 0) & (np.abs(table + 9) < 9), FOAM)
    s.paint((depth < 0) & (np.abs(np.abs(table + 9) - 9) < 2.4), TABLE)


def draw_chest(s: Scene) -> None:
    """Lung bases above two domes of diaphragm, and the heart."""
    right = 232 - 62 * ((s.x - 66) / 72) ** 2 - 70 * ((s.y - 12) / 92) ** 2
    left = 219 - 62 * ((s.x + 66) / 70) ** 2 - 62 * ((s.y - 6) / 92) ** 2
    centre = 198 - 40 * (s.x / 80) ** 2 - 24 * ((s.y - 45) / 60) ** 2
    dome = np.maximum.reduce([right, left, centre])
    spine = ellipsoid(s, (0, -44, 200), (44, 40, 400))
    s.lung = np.maximum.reduce([(dome - s.z) * 0.6, -spine, -s.inside + 2.5])
    s.paint(s.lung < 2.2, MUSCLE)
    s.paint(s.lung < 0, LUNG)
    s.paint((s.quick > 2.0) & (s.lung < -4), MUSCLE)  # vessels of the lung
    heart = ellipsoid(s, (-22, 48, 222), (66, 50, 46))
    s.paint((heart < 8) & (s.inside > 3), FAT)
    s.paint(heart < 0, HEART)
    s.paint((heart < -9) & (s.mid < 0.9), VESSEL)
    s.lung = np.minimum(s.lung, heart)


def draw_ribs(s: Scene) -> None:
    """Ribs slant down towards the front, so that a slice cuts each as an oval."""
    path = s.angle * 150
    ground = 0.5 * path
    for number in range(10):
        top = 88 + 31 * number
        end = min(1.15 + 0.24 * number, 2.75)
        across = np.abs(s.z - top + ground) / 1.12
        inwards = s.inside + 6 + 12 * np.exp(-((s.angle / 0.5) ** 2))
        rib = np.hypot(across / 5.6, inwards / 4.0) - 1
        ok = (s.angle > 0.28) & (s.angle < end)
        s.paint((rib < 0.45) & ok & (s.in_wall > 1), MUSCLE)
        s.paint((rib < 0) & ok, CORTICAL)
        s.paint((rib < -0.45) & ok, CANCELLOUS)


def draw_spine(s: Scene) -> None:
    """Vertebral bodies and discs, canal, arches with their processes."""
    phase = np.mod(s.z + 6, 35) - 17.5  # 0 at the middle of a vertebral body
    waist = 1.8 * np.abs(phase / 17.5) ** 2 - 1.5
    body = ellipsoid(s, (0, -40, 100), (25, 18, 4000)) - waist
    body = np.maximum(body, 10 - np.hypot(s.x * 0.8, s.y + 64))  # hollow at the back
    canal = np.hypot(s.x / 12, (s.y + 64) / 9.5) - 1
    arch = np.maximum(np.abs(canal - 0.42) - 0.3, np.abs(phase) / 13 - 1)
    spike = np.maximum(np.abs(s.x) - 3.6, np.abs(s.y + 86) - 14)
    spike = np.maximum(spike, np.abs(phase + 5) - 11)
    wing = np.abs(s.y + 62 + 0.12 * np.abs(s.x)) - 4.5 + 0.03 * np.abs(s.x)
    wing = np.maximum(wing, np.abs(np.abs(s.x) - 28) - 16)
    wing = np.maximum(wing, np.abs(phase - 2) - 6)
    s.paint((body < 3) & (s.y > -60), FAT)
    s.paint(body < 0, CANCELLOUS)
    s.paint((body < 0) & ((body > -2.6) | (np.abs(phase) > 11)), CORTICAL)
    s.paint((body < 0) & (np.abs(phase) > 13.5), DISC)
    for bone in (spike, wing, arch * 8):
        s.paint(bone < 0, CORTICAL)
        s.paint(bone < -2.4, CANCELLOUS)
    s.paint(canal < 0, FAT)
    s.paint(canal < -0.22, CANAL)


def draw_muscles(s: Scene) -> None:
    """Psoas, growing downwards, quadratus lumborum, crura; fat between back muscles."""
    size = np.clip((135 - s.z) / 100, 0, 1.15)
    for side in (-1, 1):
        psoas = np.hypot(s.x - side * (30 + 9 * size), 0.85 * (s.y + 46 - 6 * size))
        s.paint((psoas < 6 + 15 * size) & (size > 0.02), MUSCLE)
        square = np.hypot((s.x - side * 66) / 17, (s.y + 62) / 8)
        s.paint((square < 1) & (s.z < 105), MUSCLE)
        crus = np.hypot((s.x - side * 15 + 4) / 10, (s.y + 14) / 15)
        s.paint((crus < 1) & (s.z > 105), MUSCLE)
        edge = np.hypot((s.x - side * 34) / 30, (s.y + 84) / 24)
        s.paint((np.abs(edge - 1) < 0.035) & (s.in_wall > 2) & (s.y < -66), FAT)
    s.paint((s.quick > 1.9) & (s.in_wall > 2) & (s.inside < -12) & (s.hu < 120), FAT)


def draw_gut(s: Scene, shape: Field, contents: Field, wall: float, gas: Field) -> None:
    """Wall of `wall` mm, contents in HU, gas where the field `gas` is positive."""
    s.paint((shape < 1.8) & (s.inside > 1.5) & (s.label == 0), FAT)
    s.paint((shape < 0) & (s.inside > 1), GUT_WALL)
    lumen = (shape < -wall) & (s.inside > 1)
    s.hu[lumen] = contents[lumen]
    s.hu[lumen & (gas > 0)] = -960


def draw_bowel(s: Scene) -> None:
    """Small bowel in folds, duodenum, and colon with stool: distractors of every HU."""
    folds = []
    for y, low in ((20, -10), (46, 6)):
        for row in range(4):
            z = low + 25 * row
            xs = np.linspace(-82, 74, 8) * (1 if row % 2 else -1)
            folds += [(x, y, z, 11.5) for x in xs]
    path = np.array(folds, float)
    path[:, :3] += s.rng.normal(0, (4, 7, 6), (len(path), 3))
    path[:, 3] += s.rng.normal(0, 1.2, len(path))
    loops, along = tubes(s, [path])
    piece = (along / 130).astype(int)
    contents = np.take(BOWEL_HU, piece % len(BOWEL_HU)) + 14 * s.mid
    level = np.take(s.rng.uniform(40, 76, 40), piece % 40)
    gas = np.where(piece % 3 == 0, s.flat_y - level, -1)
    draw_gut(s, loops + 0.8 * s.quick, contents, 2.6, gas)
    duodenum, _ = tubes(s, [DUODENUM_PATH])
    draw_gut(s, duodenum, 40 + 45 * s.mid, 2.8, s.mid - 2.6)
    colon, along = tubes(s, [COLON_PATH])
    haustra = 2.2 * np.cos(along / 5.0) + 0.8 * s.mid
    stool = 45 + 55 * s.quick - 160 * (s.quick > 1.2)
    transverse = (s.y > 40) & (s.flat_y > 74)
    draw_gut(s, colon + haustra, stool, 2.4, np.where(transverse, 1, s.mid - 1.5))


def draw_mesentery(s: Scene) -> None:
    """Many small vessels that fan out in the fat, and the named branches."""
    twigs = []
    for _ in range(46):
        x, y, z = s.rng.uniform((-85, 10, 0), (85, 62, 95))
        root = (4 + 0.2 * x, 18, 0.5 * z + 40, 3)
        twigs.append([root, (0.6 * x, 0.5 * (y + 18), z + 4, 2.4), (x, y, z, 1.6)])
    shape, _ = tubes(s, twigs)
    s.paint((shape < 0) & (s.hu < -60) & (s.inside > 4), CAVA)


def draw_stomach(s: Scene) -> None:
    """Stomach with wall, food and a level of gas, which floats to the front."""
    shape, _ = tubes(s, [STOMACH_PATH])
    shape = shape + 1.2 * s.slow + 0.8 * s.mid
    shape = np.maximum.reduce([shape, 4 - s.lung, 3 - s.inside])
    s.paint_organ(shape, GUT_WALL, STOMACH, 3)
    lumen = shape < -3.4 + 0.8 * s.quick
    s.paint(lumen, STOMACH_HU, STOMACH)
    s.hu[lumen] += 14 * s.quick[lumen]
    s.paint(lumen & (s.flat_y > 44), (-950, 5), STOMACH)


def draw_spleen(s: Scene) -> None:
    """Spleen: a crescent along the wall, hollow towards the stomach."""
    shape = ellipsoid(s, (-94, -40, 150), (46, 50, 52)) + 1.2 * s.slow
    hollow = ellipsoid(s, (-46, 2, 156), (52, 58, 90))
    shape = np.maximum.reduce([shape, -hollow, 4.5 - s.lung, 3.5 - s.inside])
    s.paint_organ(shape, SPLEEN_HU, SPLEEN, 3)


def draw_kidney(s: Scene, side: int, centre: Sequence[float], label: int) -> None:
    """Kidney: cortex, medullary pyramids, and a sinus of fat open to the midline."""
    cx, cy, cz = centre
    lean = 0.16 * (s.z - cz)
    u, v, w = side * (s.x - cx) + lean, s.y - cy + lean, s.z - cz
    radius = np.sqrt((u / 27) ** 2 + (v / 29) ** 2 + (w / 52) ** 2)
    sinus = np.sqrt(((u + 17) / 21) ** 2 + ((v - 5) / 10) ** 2 + (w / 25) ** 2)
    sinus = (sinus - 1) * 10
    shape = np.maximum((radius - 1) * 27 + 0.8 * s.slow, -sinus)
    s.paint_organ(shape, CORTEX, label, 6)
    columns = np.cos(5 * np.arctan2(v, u + 8)) + np.cos(w / 4.2)
    s.paint((shape < -7) & (columns < 0.7), MEDULLA, label)
    pelvis = np.sqrt(((u + 16) / 15) ** 2 + ((v - 4) / 5) ** 2 + (w / 14) ** 2) < 1
    s.paint((sinus < 0) & (radius < 1.05), FAT)
    s.paint(pelvis & (sinus < -2), PELVIS)


def draw_liver(s: Scene) -> None:
    """Liver under the right dome, its left lobe, its tilted lower face, its vessels."""
    right = ellipsoid(s, (72, 0, 140), (84, 100, 104))
    left = ellipsoid(s, (6, 54, 172), (84, 40, 44))
    blend = np.clip(0.5 + (right - left) / 24, 0, 1)
    shape = right * (1 - blend) + left * blend - 12 * blend * (1 - blend)
    below = (42 + 0.82 * (116 - s.x) - 0.3 * (s.y - 10) - s.z) * 0.7
    middle = ellipsoid(s, (-8, -44, 100), (50, 48, 4000))
    cleft = ellipsoid(s, (14, 80, 140), (4, 30, 34))
    parts = [shape + 1.2 * s.slow, below + 2 * s.slow, -middle, -cleft]
    shape = np.maximum.reduce([*parts, 4.5 - s.lung, 3.5 - s.inside])
    s.paint_organ(shape, LIVER_HU, LIVER, 3)
    vessels, _ = tubes(s, PORTAL_TREE + HEPATIC_VEINS)
    within = (vessels < 0) & (shape < 0)
    s.paint(within, (158, 5), LIVER)
    s.paint((vessels < 0) & (shape >= 0) & (s.label == 0) & (s.inside > 9), VESSEL)
    bladder = ellipsoid(s, (58, 48, 96), (15, 21, 22))
    s.paint_organ(bladder, MUSCLE, 0, 1.5)
    s.paint(bladder < -2, BILE)


def draw_vessels(s: Scene) -> None:
    """Aorta, vena cava and their main branches."""
    branches, _ = tubes(s, BRANCHES)
    s.paint((branches < 0) & (s.label == 0), VESSEL)
    cava, _ = tubes(s, [CAVA_PATH])
    s.paint((cava < 1.6) & (s.label == 0) & (s.hu < 250), FAT)
    s.paint(cava < 0, CAVA)
    aorta, _ = tubes(s, [AORTA_PATH])
    s.paint((aorta < 2.5) & (s.hu < 130), FAT)
    s.paint(aorta < 1.2, MUSCLE)
    s.paint(aorta < 0, AORTA_HU, AORTA)


def draw(seed: int) -> Scene:
    """Draw everything, from the skin inwards."""
    s = Scene(seed)
    draw_trunk(s)
    draw_chest(s)
    draw_ribs(s)
    draw_muscles(s)
    draw_spine(s)
    draw_mesentery(s)
    draw_bowel(s)
    pancreas, _ = tubes(s, [PANCREAS_PATH])
    pancreas = pancreas + 1.8 * s.quick
    s.paint((pancreas < 3) & (s.inside > 4), FAT)
    s.paint(pancreas < 0, PANCREAS_HU)
    draw_stomach(s)
    draw_spleen(s)
    draw_kidney(s, 1, (64, -36, 78), KIDNEY_RIGHT)
    draw_kidney(s, -1, (-62, -36, 92), KIDNEY_LEFT)
    draw_liver(s)
    draw_vessels(s)
    return s


def blocks(array: NDArray[Any]) -> NDArray[Any]:
    """Fine voxels of each final voxel along the last axis."""
    i, j, k = SHAPE
    cut = array.reshape(i, FINE, j, FINE, k, FINE).transpose(0, 2, 4, 1, 3, 5)
    return cut.reshape(i, j, k, FINE**3)


def scanner_noise(rng: np.random.Generator, hu: Field) -> Field:
    """Noise with the grain of a soft reconstruction kernel, stronger amid the body."""
    white = rng.standard_normal(SHAPE).astype(np.float32)
    sharp, blunt = (gaussian_filter(white, (w, w, 0.35)) for w in (0.6, 2))
    grain = sharp - blunt
    dense = gaussian_filter((hu > -500).astype(np.float32), (14, 14, 2))
    return np.asarray(grain / grain.std() * (5 + 14 * dense), np.float32)


def make(seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Image in HU and truth, both (i, j, k)."""
    s = draw(seed)
    fine_labels = blocks(s.label)
    values = np.array([0, *CLASSES], np.uint8)
    votes = np.stack([(fine_labels == v).sum(-1) for v in values])
    truth = values[votes.argmax(0)]
    hu = gaussian_filter(blocks(s.hu).mean(-1), (0.5, 0.5, 0.2))
    hu = hu + scanner_noise(s.rng, hu)
    return np.clip(np.round(hu), -1024, 1500).astype(np.int16), truth


def save(path: Path, array: NDArray[Any]) -> None:
    """Write NIfTI, the same bytes at every run: gzip would store the time and name."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), 9, mtime=0))


def main() -> None:
    """Write the sample's four files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    image, truth = make(options.seed)
    labels = np.zeros_like(truth)
    labels[..., ANNOTATED] = truth[..., ANNOTATED]
    options.out.mkdir(parents=True, exist_ok=True)
    for name, array in (("ct", image), ("truth", truth), ("labels", labels)):
        save(options.out / f"phantom_{name}.nii.gz", array)
    table = {str(v): {"name": n, "colour": c} for v, (n, c) in CLASSES.items()}
    text = json.dumps(table, indent=1) + "\n"
    (options.out / "phantom_classes.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
