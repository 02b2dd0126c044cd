"""BibTeX of the papers behind this package."""

from __future__ import annotations

__all__ = ["ANDERSON", "PARATAA"]

PARATAA = """@inproceedings{tang2024accelerating,
  title = {Accelerating Parallel Sampling of Diffusion Models},
  author = {Tang, Zhiwei and Tang, Jiasheng and Luo, Hao and Wang, Fan and Chang, Tsung-Hui},
  booktitle = {Proceedings of the 41st International Conference on Machine Learning},
  year = {2024},
  eprint = {2402.09970},
  archivePrefix = {arXiv},
  url = {https://openreview.net/forum?id=CjVWen8aJL}
}"""

ANDERSON = """@article{anderson1965iterative,
  title = {Iterative Procedures for Nonlinear Integral Equations},
  author = {Anderson, Donald G.},
  journal = {Journal of the ACM},
  volume = {12},
  number = {4},
  pages = {547--560},
  year = {1965},
  doi = {10.1145/321296.321305}
}"""
