"""Tools for tests of samplers and strategies: random problems, nonsense strategies, hypothesis strategies."""
