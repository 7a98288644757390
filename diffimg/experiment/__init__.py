"""Experiments: configs, recipes, run folders, pictures and reports, and the command line."""
