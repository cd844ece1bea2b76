"""Manifests: `Manifest.load(path)` reads one; publish, verify, explain and diff are modules of their own."""

from quadmix.manifest.model import Manifest

__all__ = ["Manifest"]
