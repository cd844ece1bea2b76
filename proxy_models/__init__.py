"""Small decoder models that stand in for the big one: the only package that imports torch."""
