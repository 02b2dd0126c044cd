"""What to cite."""

__all__ = ["CITATIONS"]

SPECTRAL = """@article{dutt2000spectral,
  title = {Spectral Deferred Correction Methods for Ordinary Differential Equations},
  author = {Dutt, Alok and Greengard, Leslie and Rokhlin, Vladimir},
  journal = {BIT Numerical Mathematics},
  volume = {40},
  number = {2},
  pages = {241--266},
  year = {2000},
  doi = {10.1023/A:1022338906936}
}"""

ORDER = """@book{shampine1975computer,
  title = {Computer Solution of Ordinary Differential Equations: The Initial Value Problem},
  author = {Shampine, Lawrence F. and Gordon, Marilyn K.},
  publisher = {W. H. Freeman},
  year = {1975}
}"""

PARAREAL = """@article{lions2001parareal,
  title = {R{\\'e}solution d'EDP par un sch{\\'e}ma en temps {\\guillemotleft}parar{\\'e}el{\\guillemotright}},
  author = {Lions, Jacques-Louis and Maday, Yvon and Turinici, Gabriel},
  journal = {Comptes Rendus de l'Acad{\\'e}mie des Sciences, S{\\'e}rie I},
  volume = {332},
  number = {7},
  pages = {661--668},
  year = {2001}
}"""

SELF_REFINING = """@inproceedings{selvam2024srds,
  title = {Self-Refining Diffusion Samplers: Enabling Parallelization via Parareal Iterations},
  author = {Selvam, Nikil Roashan and Merchant, Amil and Ermon, Stefano},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {37},
  year = {2024},
  eprint = {2412.08292},
  archivePrefix = {arXiv}
}"""

CITATIONS = {
    "variable-order": ORDER,
    "collocation": SPECTRAL,
    "smooth": f"{SPECTRAL}\n\n{ORDER}",
    "two-step-parareal": f"{PARAREAL}\n\n{SELF_REFINING}",
}
"""BibTeX entries by registered name."""
