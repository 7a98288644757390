"""Benchmarks against peers: ``python -m benchmarks NAME [--json FILE] [--quick]``; one file each, public API only."""
