"""Pictures in, JOD, its uncertainty and kinds of fault out: no scores, no backbone."""
