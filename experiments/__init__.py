"""Where the pipeline and the heads meet: training jobs, variants of a method, learned prompts, searches."""
