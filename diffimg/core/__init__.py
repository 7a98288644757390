"""Pytrees, checks, loops and linear algebra; knows no imaging."""
