"""Launch commands for brain and eyes on known machines, and the configuration that goes with them.

What is known stands in three files: `machines.toml`, `models.toml`, `facts.toml` (each fact with who says so and when).
`catalogue.py` reads them, `fit.py` counts memory and puts servers on GPUs, `render.py` writes commands and the
configuration, `pages.py` writes docs/recipes from the same.

Nothing here was run on a GPU by this project, and every command says so.
"""
