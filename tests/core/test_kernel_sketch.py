"""Sketches count collisions: of each row by brute force, of all rows as the kernel's sum, of parts as of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from quadmix.core.kernel_sketch import CollisionCounts, cells, random_planes


def unit(n: int, dimensions: int, seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(n, dimensions))
    return (points / np.linalg.norm(points, axis=1)[:, None]).astype(np.float32)


def test_collisions_are_those_of_every_pair_compared() -> None:
    points, queries = unit(60, 5, 1), unit(20, 5, 2)
    planes = random_planes(5, 7, 3, seed=4)
    sketch = CollisionCounts.of(cells(points, planes, 3), 3)
    found = sketch.collisions(cells(queries, planes, 3))
    for query, count in zip(queries, found, strict=True):
        literal = 0
        for row in range(7):
            for point in points:
                sides = [
                    (float(np.rint(point.astype(float) * 2**14) @ plane) >= 0)
                    == (float(np.rint(query.astype(float) * 2**14) @ plane) >= 0)
                    for plane in planes[3 * row : 3 * row + 3].astype(float)
                ]
                literal += all(sides)
        assert count == literal


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_their_mean_is_the_kernel_s_sum_within_its_error(bits: int) -> None:
    points = np.concatenate([unit(150, 16, 1), unit(1, 16, 3) + 0.05 * unit(50, 16, 5)])
    points = (points / np.linalg.norm(points, axis=1)[:, None]).astype(np.float32)
    rows = 3000
    cell = cells(points, random_planes(16, rows, bits, seed=11), bits)
    estimate = CollisionCounts.of(cell, bits).collisions(cell) / (rows * len(points))
    angle = np.arccos(np.clip(points.astype(float) @ points.astype(float).T, -1.0, 1.0))
    exact = ((1.0 - angle / np.pi) ** bits).mean(axis=1)
    # rows are independent and their estimates lie in 0..1 with mean `exact`: variance at most exact (1 - exact)
    error = np.sqrt(exact * (1.0 - exact) / rows)
    assert (np.abs(estimate - exact) / error).max() < 4.5
    # the crowd of fifty is denser than what lies alone, and the kernel narrows with the bits
    assert estimate[150:].min() > estimate[:150].max() or bits == 1


def test_parts_merge_to_the_whole_and_blocks_do_not_matter() -> None:
    points, planes = unit(3000, 6, 7), random_planes(6, 9, 4, seed=1)
    cell = cells(points, planes, 4)
    assert np.array_equal(cell, np.concatenate([cells(points[i : i + 1], planes, 4) for i in range(3000)]))
    whole = CollisionCounts.of(cell, 4)
    shuffled = np.random.default_rng(2).permutation(3000)
    parts = [CollisionCounts.of(cell[part], 4) for part in np.array_split(shuffled, 7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert np.array_equal(merged.counts, whole.counts)
    assert merged.size == whole.size == 3000
    assert whole.counts.sum(axis=1).tolist() == [3000] * 9
