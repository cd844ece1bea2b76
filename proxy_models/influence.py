"""Influence of documents on a reference's loss: what callers use, in the order in which they use it.

    layers = Layers.of(model, "all")
    bases = eigenbases(covariances(model, layers, docs, hashes, seed))            # partials merge: reduce, then solve
    found = corrected(model, layers, bases, docs, hashes, seed)                   # likewise
    curved = curvature("ekfac", layers, bases=bases, corrected=found)             # log curved.damping
    vector = curved.solve(reference_gradient(model, layers, reference_docs))      # once; vector.save(path)
    benefits = score(model, layers, vector, pulled_docs)                          # (n,) float64, higher is better

b(z) = + <gradient of L(R), (G + d I)^-1 gradient of L(z)> (Quad, arXiv 2409.16986, whose influence is -b): after a
step theta - eta (G + d I)^-1 gradient of L(z), the reference's loss has changed by -eta b(z). Losses are means per
token. Works with our decoder and with Hugging Face's causal models; only the linear layers' weights count.
"""

from proxy_models.curvature import (
    Bases,
    Corrected,
    Covariances,
    Curvature,
    Gradient,
    Kind,
    Vector,
    curvature,
    eigenbases,
)
from proxy_models.documents import predictions
from proxy_models.factors import corrected, covariances, reference_gradient
from proxy_models.layers import Group, Layers
from proxy_models.scores import Combine, Way, score, score_each

__all__ = [
    "Bases",
    "Combine",
    "Corrected",
    "Covariances",
    "Curvature",
    "Gradient",
    "Group",
    "Kind",
    "Layers",
    "Vector",
    "Way",
    "corrected",
    "covariances",
    "curvature",
    "eigenbases",
    "predictions",
    "reference_gradient",
    "score",
    "score_each",
]
