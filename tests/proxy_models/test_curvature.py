"""The algebra of solving with factors, against dense matrices; every transpose and the division matter."""

from __future__ import annotations

import inspect
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from proxy_models import curvature as curvature_module
from proxy_models.curvature import (
    Bases,
    Corrected,
    Covariances,
    Gradient,
    Matrix,
    Vector,
    curvature,
    eigenbases,
    solve_block,
)
from proxy_models.factors import squared_gradients
from proxy_models.layers import Layer, Layers, Part
from quadmix.errors import ConfigError, InputError

Solve = Callable[[Matrix, Matrix, Matrix, Matrix, float], Matrix]


def rotation(side: int, seed: int) -> Matrix:
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.linalg.qr(generator.normal(size=(side, side)))[0]


def dense_gap(solve: Solve, outputs: int = 5, inputs: int = 3) -> float:
    """How far a solve is from that with the whole matrix of (outputs * inputs) squared entries."""
    generator = np.random.Generator(np.random.PCG64(0))
    q_out, q_in = rotation(outputs, 1), rotation(inputs, 2)
    eigenvalues = generator.exponential(size=(outputs, inputs))
    gradient = generator.normal(size=(outputs, inputs))
    basis = np.kron(q_out, q_in)
    dense = basis @ np.diag(eigenvalues.ravel()) @ basis.T + 0.05 * np.eye(outputs * inputs)
    wanted = np.linalg.solve(dense, gradient.ravel()).reshape(outputs, inputs)
    return float(np.abs(solve(gradient, q_out, q_in, eigenvalues, 0.05) - wanted).max())


def test_a_solve_equals_the_dense_kronecker_solve_with_unequal_sides() -> None:
    assert dense_gap(solve_block) < 1e-10
    assert dense_gap(solve_block, outputs=2, inputs=7) < 1e-10


SLIPS = {
    "Q_S' not turned": ("q_out.T @ gradient", "q_out @ gradient"),
    "Q_A turned": ("gradient @ q_in\n", "gradient @ q_in.T\n"),
    "Q_S turned": ("return q_out @", "return q_out.T @"),
    "Q_A' not turned": (" @ q_in.T", " @ q_in"),
    "multiplied": ("rotated / (", "rotated * ("),
}


def slipped(slip: str) -> Solve:
    source, (right, wrong) = inspect.getsource(solve_block), SLIPS[slip]
    assert source.count(right) == 1
    names = dict(vars(curvature_module))
    exec(source.replace(right, wrong), names)
    found: Solve = names["solve_block"]
    return found


@pytest.mark.parametrize("slip", SLIPS)
def test_each_slip_of_the_released_code_is_seen(slip: str) -> None:
    assert dense_gap(slipped(slip), outputs=4, inputs=4) > 1e-3  # equal sides: nothing fails by shape


@pytest.mark.parametrize("slip", SLIPS)
def test_each_slip_is_seen_in_a_layer_of_a_deep_linear_net(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert linear_net_gap("ekfac") < 1e-10
    monkeypatch.setattr(curvature_module, "solve_block", slipped(slip))
    assert linear_net_gap("ekfac") > 1e-3


SIDES = (4, 4, 4, 3)  # square in front, so that a turned factor is not caught by its shape


def linear_net() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(SIDES))).double()
    with torch.no_grad():
        for layer in net:
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    x = torch.randn(12, SIDES[0], generator=generator, dtype=torch.float64)
    return net, x, torch.randn(12, SIDES[-1], generator=generator, dtype=torch.float64)


def exact_block(net: nn.Sequential, x: torch.Tensor, index: int) -> Matrix:
    """Gauss-Newton of the mean over rows of the summed squared error, for one weight: 2 J'J / n."""
    total = np.zeros((net[index].weight.numel(),) * 2)
    for row in x:
        for output in net(row):
            (gradient,) = torch.autograd.grad(output, net[index].weight, retain_graph=True)
            total += 2.0 * np.outer(gradient.numpy().ravel(), gradient.numpy().ravel())
    return total / len(x)


def linear_net_gap(kind: str) -> float:
    """Largest relative distance, over the layers, of our solve from that with the exact block.

    Each column of the loss' square root Hessian takes the place of a drawn label: no sampling noise.
    """
    net, x, _ = linear_net()
    generator = np.random.Generator(np.random.PCG64(3))
    gap = 0.0
    activations = [x]
    for layer in net:
        activations.append(layer(activations[-1]))
    for index, module in enumerate(net):
        layers = Layers("all", (Layer("m", module.in_features, module.out_features, False, parts(module)),))
        after = torch.eye(module.out_features, dtype=torch.float64)
        for later in list(net)[index + 1 :]:
            after = later.weight @ after  # (outputs of the net, outputs of this layer): the same for every row
        a, g = activations[index].detach(), (2.0**0.5) * after.detach()
        covariances = Covariances({"m": (a.T @ a).numpy()}, {"m.up": len(a) * (g.T @ g).numpy()}, len(a), len(a))
        bases = eigenbases(covariances)
        q_in, q_out = (
            torch.from_numpy(e["m" if e is bases.inputs else "m.up"].vectors) for e in (bases.inputs, bases.outputs)
        )
        pairs = [squared_gradients(row[None, None], column[None, None], q_in, q_out) for row in a for column in g]
        corrected = Corrected({"m.up": sum(pairs).numpy()}, len(a), bases.digest)  # type: ignore[union-attr]
        curved = curvature(kind, layers, bases=bases, corrected=corrected)  # type: ignore[arg-type]
        v = generator.normal(size=module.weight.shape)
        dense = exact_block(net, x, index) + curved.damping["m.up"] * np.eye(v.size)
        wanted = np.linalg.solve(dense, v.ravel()).reshape(v.shape)
        found = curved.solve(Gradient({"m.up": v}, 1)).parts["m.up"]
        gap = max(gap, float(np.abs(found - wanted).max() / np.abs(wanted).max()))
    return gap


def parts(module: nn.Linear) -> tuple[Part, ...]:
    return (Part("m.up", 0, module.out_features),)


@pytest.mark.parametrize("kind", ["ekfac", "kfac"])
def test_a_deep_linear_net_with_squared_error_has_its_exact_gauss_newton_blocks(kind: str) -> None:
    assert linear_net_gap(kind) < 1e-10


def test_curvlinops_agrees_about_the_exact_blocks() -> None:
    curvlinops = pytest.importorskip("curvlinops", reason="needs curvlinops (infra/no_deps.txt)")
    net, x, y = linear_net()
    for index in range(len(net)):
        operator = curvlinops.GGNLinearOperator(
            net, nn.MSELoss(reduction="sum"), [net[index].weight], [(x, y)], check_deterministic=False
        )
        size = net[index].weight.numel()
        dense = (operator @ torch.eye(size, dtype=torch.float64)).detach().numpy() / len(x)
        assert np.abs(dense - exact_block(net, x, index)).max() < 1e-10 * np.abs(dense).max()


def test_eigenvectors_have_one_sign_and_rebuild_the_matrix() -> None:
    half = np.random.Generator(np.random.PCG64(0)).normal(size=(9, 6))
    total = half.T @ half
    for factor in (1.0, 3.0):
        bases = eigenbases(Covariances({"m": factor * total}, {"m.up": factor * total}, 9, 3))
        q, values = bases.inputs["m"].vectors, bases.inputs["m"].values
        assert np.allclose(q @ np.diag(values) @ q.T, factor * total / 9, atol=1e-12)
        assert (q[np.abs(q).argmax(axis=0), np.arange(6)] > 0).all()
    assert bases.outputs["m.up"] is bases.inputs["m"]  # the same matrix is decomposed once
    assert bases.tokens_per_doc == 3.0


LAYERS = Layers("all", (Layer("m", 2, 3, False, (Part("m.up", 0, 3),)),))


def made() -> tuple[Bases, Corrected]:
    bases = eigenbases(Covariances({"m": np.diag([2.0, 4.0])}, {"m.up": np.diag([1.0, 3.0, 5.0])}, 2, 1))
    return bases, Corrected({"m.up": np.arange(6.0).reshape(3, 2)}, 2, bases.digest)


def test_damping_is_relative_to_each_layers_mean_eigenvalue_and_reported() -> None:
    bases, corrected = made()
    assert curvature("ekfac", LAYERS, bases=bases, corrected=corrected).damping == {"m.up": pytest.approx(0.125)}
    kfac = curvature("kfac", LAYERS, bases=bases, damping=0.5)
    assert kfac.damping == {"m.up": pytest.approx(0.5 * 2.0 * 1.5 * 1.5)}  # T = 2, means of both sides 1.5
    v = Gradient({"m.up": np.ones((3, 2))}, 1)
    for found in (curvature("ekfac", LAYERS, bases=bases, corrected=corrected), kfac):
        assert np.array_equal(pickle.loads(pickle.dumps(found)).solve(v).parts["m.up"], found.solve(v).parts["m.up"])


def test_diagonal_divides_by_squares_and_identity_changes_nothing() -> None:
    v = Gradient({"m.up": np.full((3, 2), 4.0)}, 2)
    squares = np.arange(1.0, 7.0).reshape(3, 2)
    diagonal = curvature("diagonal", LAYERS, corrected=Corrected({"m.up": squares}, 1, Bases.none().digest))
    assert np.allclose(diagonal.solve(v).parts["m.up"], 2.0 / (squares + 0.35))
    identity = curvature("identity", LAYERS)
    assert (identity.solve(v).parts["m.up"] == 2.0).all()
    assert identity.damping == {}


def test_factors_that_do_not_belong_together_are_refused() -> None:
    bases, corrected = made()
    other = eigenbases(Covariances({"m": np.eye(2) + 0.1}, {"m.up": np.eye(3)}, 2, 1))
    with pytest.raises(InputError, match="found eigenvalues in bases"):
        curvature("ekfac", LAYERS, bases=other, corrected=corrected)
    with pytest.raises(InputError, match="wanted one"):
        corrected.merge(Corrected(corrected.sums, 1, other.digest))
    with pytest.raises(InputError, match="those of one model"):
        corrected.merge(Corrected({}, 1, bases.digest))
    with pytest.raises(ConfigError, match="without its factors"):
        curvature("ekfac", LAYERS, bases=bases)
    with pytest.raises(ConfigError, match="wanted more than 0"):
        curvature("kfac", LAYERS, bases=bases, damping=0.0)
    with pytest.raises(ConfigError, match="wanted ekfac, kfac, diagonal or identity"):
        curvature("newton", LAYERS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"mean curvature 0\.0.*was not trained"):
        curvature("ekfac", LAYERS, bases=bases, corrected=Corrected({"m.up": np.zeros((3, 2))}, 1, bases.digest))
    with pytest.raises(InputError, match="not finite"):
        eigenbases(Covariances({"m": np.full((2, 2), np.nan)}, {}, 1, 1))
    with pytest.raises(InputError, match="no prediction"):
        eigenbases(Covariances({"m": np.eye(2)}, {}, 0, 0))
    with pytest.raises(InputError, match="not in both"):
        curvature("kfac", LAYERS, bases=bases).solve(Gradient({"m.down": np.ones((3, 2))}, 1))
    with pytest.raises(InputError, match="reference without a prediction"):
        Gradient({"m.up": np.ones((3, 2))}, 0).mean()


def test_a_vector_survives_its_file_to_the_bit(tmp_path: Path) -> None:
    vector = Vector({"m.up": rotation(5, 0)[:, :2], "m.down": rotation(3, 1)}, "ekfac")
    vector.save(tmp_path / "v.safetensors")
    again = Vector.load(tmp_path / "v.safetensors")
    assert again.kind == "ekfac"
    assert all(np.array_equal(again.parts[name], part) for name, part in vector.parts.items())
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]
    (tmp_path / "v.safetensors").write_bytes((tmp_path / "v.safetensors").read_bytes()[:-3])
    for path in (tmp_path / "v.safetensors", tmp_path / "none"):
        with pytest.raises(InputError, match="not a reference vector"):
            Vector.load(path)


def test_the_mean_of_vectors_is_of_one_kind() -> None:
    one, other = Vector({"m": np.ones((1, 2))}, "kfac"), Vector({"m": np.full((1, 2), 3.0)}, "kfac")
    assert (Vector.mean([one, other]).parts["m"] == 2.0).all()
    with pytest.raises(InputError, match="of one kind"):
        Vector.mean([one, Vector(one.parts, "identity")])
