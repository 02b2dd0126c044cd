"""BibTeX of the papers that this package implements."""

from __future__ import annotations

__all__ = ["CITATIONS"]

LIM_2024 = """@inproceedings{lim2024deer,
  title     = {Parallelizing non-linear sequential models over the sequence length},
  author    = {Lim, Yi Heng and Zhu, Qi and Selfridge, Joshua and Kasim, Muhammad Firmansyah},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  eprint    = {2309.12252},
  archivePrefix = {arXiv},
}"""

GONZALEZ_2024 = """@inproceedings{gonzalez2024elk,
  title     = {Towards Scalable and Stable Parallelization of Nonlinear {RNNs}},
  author    = {Gonzalez, Xavier and Warrington, Andrew and Smith, Jimmy T. H. and Linderman, Scott W.},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {37},
  year      = {2024},
  eprint    = {2407.19115},
  archivePrefix = {arXiv},
}"""

FANG_2009 = """@article{fang2009multisecant,
  title   = {Two classes of multisecant methods for nonlinear acceleration},
  author  = {Fang, Haw-ren and Saad, Yousef},
  journal = {Numerical Linear Algebra with Applications},
  volume  = {16},
  number  = {3},
  pages   = {197--221},
  year    = {2009},
  doi     = {10.1002/nla.617},
}"""

CITATIONS = {
    "deer": LIM_2024,
    "quasi-deer": GONZALEZ_2024,
    "elk": GONZALEZ_2024,
    "quasi-elk": GONZALEZ_2024,
    "diagonal": GONZALEZ_2024,
    "diagonal-filter": GONZALEZ_2024,
    "kalman": GONZALEZ_2024,
    "secant": FANG_2009,
    "front": FANG_2009,
}
"""BibTeX entries by registered name."""
