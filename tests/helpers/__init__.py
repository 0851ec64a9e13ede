"""What several test files use: tiny trainings, one run of the pipeline, a server that breaks, pictures and files."""
