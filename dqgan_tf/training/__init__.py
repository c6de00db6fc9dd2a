"""Everything that a `RunConfig` describes: the job, its loop, its checkpoints and its reports."""
