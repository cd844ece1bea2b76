"""Factors of the curvature G and what is solved with them: numpy alone, float64, one block a layer.

For a layer with inputs a and output gradients g (Kronecker-factored, arXiv 1503.05671; eigenvalues corrected as in
EK-FAC, arXiv 1806.03884; for language models arXiv 2308.03296):

    A = sum a a' / n,  S = sum g g' / n          over the n predictions of the sample
    A = Q_A diag(l_A) Q_A',  S = Q_S diag(l_S) Q_S'
    L = mean over documents of (Q_S' G_d Q_A)^2   (elementwise; G_d the gradient of a document's summed loss)
    (G + d I)^-1 V = Q_S [ (Q_S' V Q_A) / (L + d) ] Q_A',   d = damping x mean(L) of that layer

K-FAC has L = T l_S l_A' with T predictions a document; `diagonal` has Q = I; `identity` leaves V as it is. Labels are
drawn from the model, so G is the Fisher matrix, which is the Gauss-Newton matrix of cross-entropy.

Covariances, Corrected and Gradient are sums: `merge` adds them, so any split of the documents gives the same but for
rounding. They pickle; none holds a tensor.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

from proxy_models.layers import Layers
from quadmix.errors import ConfigError, InputError
from quadmix.one_thread import one_blas_thread

Matrix = NDArray[np.float64]
Kind = Literal["ekfac", "kfac", "diagonal", "identity"]
DAMPING = 0.1


@dataclass(frozen=True)
class Covariances:
    """inputs: module -> sum of a a'; outputs: layer -> sum of g g'; over n_tokens predictions of n_docs documents."""

    inputs: Mapping[str, Matrix]
    outputs: Mapping[str, Matrix]
    n_tokens: int
    n_docs: int

    def merge(self, other: Covariances) -> Covariances:
        return Covariances(
            _added(self.inputs, other.inputs),
            _added(self.outputs, other.outputs),
            self.n_tokens + other.n_tokens,
            self.n_docs + other.n_docs,
        )


@dataclass(frozen=True)
class Eigen:
    """values: (k,) ascending, at least 0; vectors: (k, k), one a column, its entry of largest size positive."""

    values: NDArray[np.float64]
    vectors: Matrix


@dataclass(frozen=True)
class Bases:
    """inputs: module -> Q_A; outputs: layer -> Q_S; empty where no rotation is wanted. tokens_per_doc: T."""

    inputs: Mapping[str, Eigen]
    outputs: Mapping[str, Eigen]
    tokens_per_doc: float

    @classmethod
    def none(cls) -> Bases:
        """Those of the weights themselves, for `corrected` and kind `diagonal`."""
        return cls({}, {}, 0.0)

    @property
    def digest(self) -> str:
        """Hex digits that identify the vectors, to the bit."""
        digest = hashlib.sha256()
        for name, eigen in sorted([*self.inputs.items(), *self.outputs.items()]):
            digest.update(f"{name} {eigen.vectors.shape} ".encode())
            digest.update(np.ascontiguousarray(eigen.vectors).tobytes())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Corrected:
    """sums: layer -> sum over documents of (Q_S' G_d Q_A)^2, (outputs, inputs). bases: the digest of the bases."""

    sums: Mapping[str, Matrix]
    n_docs: int
    bases: str

    def merge(self, other: Corrected) -> Corrected:
        if self.bases != other.bases:
            raise InputError(
                f"found eigenvalues in bases {self.bases} and {other.bases}, wanted one; compute both with the same"
            )
        return Corrected(_added(self.sums, other.sums), self.n_docs + other.n_docs, self.bases)


@dataclass(frozen=True)
class Gradient:
    """sums: layer -> gradient of the summed loss of n_tokens predictions, (outputs, inputs)."""

    sums: Mapping[str, Matrix]
    n_tokens: int

    def merge(self, other: Gradient) -> Gradient:
        return Gradient(_added(self.sums, other.sums), self.n_tokens + other.n_tokens)

    def mean(self) -> dict[str, Matrix]:
        """The gradient of the mean loss of a prediction. Raises InputError where there is none."""
        if self.n_tokens == 0:
            raise InputError("found a reference without a prediction, wanted at least one document of two tokens")
        return {name: total / self.n_tokens for name, total in self.sums.items()}


@dataclass(frozen=True)
class Vector:
    """parts: layer -> matrix (outputs, inputs) float64. kind: how it was solved."""

    parts: Mapping[str, Matrix]
    kind: str

    @classmethod
    def mean(cls, vectors: Sequence[Vector]) -> Vector:
        """The average of one or more vectors of one kind. Raises InputError where they differ in kind or layers."""
        if not vectors or len({vector.kind for vector in vectors}) != 1:
            raise InputError(f"found vectors of kinds {[v.kind for v in vectors]}, wanted one or more of one kind")
        total = vectors[0].parts
        for vector in vectors[1:]:
            total = _added(total, vector.parts)
        return Vector({name: part / len(vectors) for name, part in total.items()}, vectors[0].kind)

    def check(self, layers: Layers) -> None:
        """Raises InputError unless the vector is of exactly these layers."""
        wanted, found = layers.shapes(), {name: part.shape for name, part in self.parts.items()}
        if wanted != found:
            name = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
            raise InputError(
                f"layer {name}: the vector has {found.get(name, 'none')}, the model {wanted.get(name, 'none')}; "
                "a vector scores only with the model and the layers that it was computed for"
            )

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        raw = save_arrays({k: np.ascontiguousarray(v) for k, v in sorted(self.parts.items())}, {"kind": self.kind})
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Vector:
        """The same bits. Raises InputError on a file that is missing, cut short or something else."""
        try:
            with safe_open(path, framework="numpy") as file:
                parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                kind = (file.metadata() or {})["kind"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(f"{path}: not a reference vector ({error}); delete it and compute it again") from error
        if any(part.dtype != np.float64 or part.ndim != 2 for part in parts.values()):
            raise InputError(f"{path}: not a reference vector (its arrays are no float64 matrices)")
        return cls(parts, kind)


@dataclass(frozen=True)
class Curvature:
    """What solves. rotations: layer -> (Q_S, Q_A), eigenvalues: layer -> L, damping: layer -> d, to be logged.

    All are empty for `identity`.
    """

    kind: Kind
    rotations: Mapping[str, tuple[Matrix, Matrix]]
    eigenvalues: Mapping[str, Matrix]
    damping: Mapping[str, float]

    def solve(self, gradient: Gradient) -> Vector:
        """(G + d I)^-1 times the gradient of the mean loss."""
        mean = gradient.mean()
        if self.kind == "identity":
            return Vector(mean, self.kind)
        if set(mean) != set(self.eigenvalues):
            name = sorted(set(mean) ^ set(self.eigenvalues))[0]
            raise InputError(f"layer {name} is not in both curvature and gradient; compute both for the same layers")
        with one_blas_thread():
            parts = {
                name: solve_block(part, *self.rotations[name], self.eigenvalues[name], self.damping[name])
                if name in self.rotations
                else part / (self.eigenvalues[name] + self.damping[name])
                for name, part in mean.items()
            }
        return Vector(parts, self.kind)


def solve_block(gradient: Matrix, q_out: Matrix, q_in: Matrix, eigenvalues: Matrix, damping: float) -> Matrix:
    """One layer's (G + d I)^-1 V; all matrices as in the module's formula, V, L and the result (outputs, inputs)."""
    rotated = q_out.T @ gradient @ q_in
    return q_out @ (rotated / (eigenvalues + damping)) @ q_in.T


def eigenbases(covariances: Covariances) -> Bases:
    """float64 eigendecompositions of all factors. Raises InputError without a prediction, or if one is not finite."""
    if covariances.n_tokens == 0:
        raise InputError("found no prediction to take curvature from, wanted at least one document of two tokens")
    # modules that read one input (separate q, k, v) have the same A: one decomposition for all of them
    done: dict[bytes, Eigen] = {}

    def eigen(name: str, total: Matrix) -> Eigen:
        key = hashlib.sha256(np.ascontiguousarray(total).tobytes()).digest()
        if key not in done:
            done[key] = _eigen(name, total / covariances.n_tokens)
        return done[key]

    with one_blas_thread():
        return Bases(
            {name: eigen(name, total) for name, total in covariances.inputs.items()},
            {name: eigen(name, total) for name, total in covariances.outputs.items()},
            covariances.n_tokens / covariances.n_docs,
        )


def curvature(
    kind: Kind,
    layers: Layers,
    *,
    bases: Bases | None = None,
    corrected: Corrected | None = None,
    damping: float = DAMPING,
) -> Curvature:
    """The curvature of a kind, with damping relative to each layer's mean eigenvalue.

    `ekfac` wants bases and what `corrected` found in them, `kfac` bases, `diagonal` what `corrected` found in
    `Bases.none()`, `identity` neither. Raises ConfigError where one is missing, InputError where the two do not belong
    together or a layer has no curvature (a model that was not trained).
    """
    if kind == "identity":
        return Curvature(kind, {}, {}, {})
    if kind not in ("ekfac", "kfac", "diagonal"):
        raise ConfigError(f"found curvature {kind!r}, wanted ekfac, kfac, diagonal or identity")
    if not damping > 0.0:
        raise ConfigError(f"found damping {damping}, wanted more than 0: curvature has directions of none")
    rotating = Bases.none() if kind == "diagonal" else bases
    if rotating is None or (corrected is None and kind != "kfac"):
        raise ConfigError(f"curvature {kind} was asked for without its factors; see `curvature`")
    rotations = {
        part.name: (rotating.outputs[part.name].vectors, rotating.inputs[layer.module].vectors)
        for layer, part in layers.parts()
        if kind != "diagonal"
    }
    if kind == "kfac":
        values = {
            part.name: rotating.tokens_per_doc
            * np.outer(rotating.outputs[part.name].values, rotating.inputs[layer.module].values)
            for layer, part in layers.parts()
        }
    else:
        assert corrected is not None
        if corrected.bases != rotating.digest:
            raise InputError(
                f"found eigenvalues in bases {corrected.bases}, wanted {rotating.digest}; compute them again"
            )
        values = {name: corrected.sums[name] / max(1, corrected.n_docs) for name in layers.shapes()}
    scales = {name: float(value.mean()) for name, value in values.items()}
    for name, scale in scales.items():
        if not 0.0 < scale < np.inf:
            raise InputError(
                f"layer {name} has mean curvature {scale}, wanted a positive number; "
                "the model was not trained, or its loss is not finite"
            )
    return Curvature(kind, rotations, values, {name: damping * scale for name, scale in scales.items()})


def _eigen(name: str, matrix: Matrix) -> Eigen:
    if not np.isfinite(matrix).all():
        raise InputError(f"the covariance of {name} is not finite; the model's activations or gradients overflow")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2.0)
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))]
    return Eigen(np.maximum(values, 0.0), vectors * np.where(largest < 0.0, -1.0, 1.0))


def _added(one: Mapping[str, Matrix], other: Mapping[str, Matrix]) -> dict[str, Matrix]:
    if {name: part.shape for name, part in one.items()} != {name: part.shape for name, part in other.items()}:
        raise InputError(f"found sums of layers {sorted(one)} and {sorted(other)}, wanted those of one model")
    return {name: part + other[name] for name, part in one.items()}
