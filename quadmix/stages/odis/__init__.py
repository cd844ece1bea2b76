"""ODiS as a stage: the components of annotated scores, what belongs to each, and examples from both their ends."""
