"""QuaDMix decides what a language model is pretrained on: scores, mixture search, token-exact manifests."""

__version__ = "0.1.0"
