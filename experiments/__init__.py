"""Training jobs, variants, learned prompts and searches: where the pipeline and the heads meet."""
