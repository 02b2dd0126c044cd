"""BibTeX of the papers that this package implements."""

from __future__ import annotations

__all__ = ["CITATIONS"]

SHIH_2023 = """@inproceedings{shih2023paradigms,
  title     = {Parallel Sampling of Diffusion Models},
  author    = {Shih, Andy and Belkhale, Suneel and Ermon, Stefano and Sadigh, Dorsa and Anari, Nima},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {36},
  year      = {2023},
  eprint    = {2305.16317},
  archivePrefix = {arXiv},
}"""

SONG_2021 = """@inproceedings{song2021accelerating,
  title     = {Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving},
  author    = {Song, Yang and Meng, Chenlin and Liao, Renjie and Ermon, Stefano},
  booktitle = {International Conference on Machine Learning},
  year      = {2021},
  eprint    = {2002.03629},
  archivePrefix = {arXiv},
}"""

CITATIONS = {"picard": SHIH_2023, "paradigms": SHIH_2023, "jacobi": SONG_2021}
"""BibTeX entries by registered name."""
