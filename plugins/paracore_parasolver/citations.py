"""BibTeX of the paper behind this package."""

from __future__ import annotations

__all__ = ["PARASOLVER"]

PARASOLVER = """@inproceedings{lu2025parasolver,
  title = {{ParaSolver}: A Hierarchical Parallel Integral Solver for Diffusion Models},
  author = {Lu, Jianrong and Zhu, Zhiyu and Hou, Junhui},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  url = {https://openreview.net/forum?id=2JihLwirxO}
}"""
