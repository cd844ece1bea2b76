"""The arithmetic of the methods: numpy and nothing else."""
