"""`quadmix compare`: selections of one budget from one pool, judged by target models under the same seeds."""
