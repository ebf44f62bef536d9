"""The HTTP routes. Each reads a body, calls the parts that know, and answers; none of them decides anything else."""
