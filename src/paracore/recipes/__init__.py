"""What rebuilds a sampler, as text: TOML or JSON, with the versions that it was made with.

For files there are :func:`paracore.save_sampler` and :func:`paracore.load_sampler`.
"""

from paracore.recipes.files import dumps, loads

__all__ = ["dumps", "loads"]
