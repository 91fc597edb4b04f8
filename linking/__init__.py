"""Where the pipeline and the heads meet."""
