"""Labels from a model behind an OpenAI-compatible endpoint: rubrics, questions, answers, what they cost."""
