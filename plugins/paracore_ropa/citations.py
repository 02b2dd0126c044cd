"""BibTeX of the sources."""

from __future__ import annotations

__all__ = ["GMRES", "LML", "L_CURVE", "NEWTON_KRYLOV", "ROPA"]

ROPA = """@unpublished{ropa,
  title = {{ROPA}: Robust Parallel Diffusion Sampling},
  author = {{Anonymous authors}},
  note = {Under double-blind review (ICLR 2026 style)},
  year = {2025}
}
"""

LML = """@article{wang2025lml,
  title = {Unleashing High-Quality Image Generation in Diffusion Sampling
           Using Second-Order {Levenberg}-{Marquardt}-{Langevin}},
  author = {Wang, Fangyikang and Yin, Hubery and others},
  journal = {arXiv preprint arXiv:2505.24222},
  year = {2025}
}
"""

GMRES = """@article{saad1986gmres,
  title = {{GMRES}: A Generalized Minimal Residual Algorithm for Solving Nonsymmetric Linear Systems},
  author = {Saad, Youcef and Schultz, Martin H.},
  journal = {SIAM Journal on Scientific and Statistical Computing},
  volume = {7},
  number = {3},
  pages = {856--869},
  year = {1986}
}
"""

NEWTON_KRYLOV = """@article{knoll2004jfnk,
  title = {Jacobian-free {Newton}--{Krylov} methods: a survey of approaches and applications},
  author = {Knoll, Dana A. and Keyes, David E.},
  journal = {Journal of Computational Physics},
  volume = {193},
  number = {2},
  pages = {357--397},
  year = {2004}
}
"""

L_CURVE = """@article{hansen1992lcurve,
  title = {Analysis of Discrete Ill-Posed Problems by Means of the {L}-Curve},
  author = {Hansen, Per Christian},
  journal = {SIAM Review},
  volume = {34},
  number = {4},
  pages = {561--580},
  year = {1992}
}
"""
