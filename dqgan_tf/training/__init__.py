"""Everything from a `RunConfig`: the job, its loop, its checkpoints and its reports."""
