"""The stage `diversity`: samples of the selection and of random selections of the pool, read, embedded and measured."""
