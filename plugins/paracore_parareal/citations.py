"""What to cite."""

__all__ = ["CITATIONS"]

CITATIONS = {
    "srds": """@inproceedings{selvam2024srds,
  title = {Self-Refining Diffusion Samplers: Enabling Parallelization via Parareal Iterations},
  author = {Selvam, Nikil Roashan and Merchant, Amil and Ermon, Stefano},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {37},
  year = {2024},
  eprint = {2412.08292},
  archivePrefix = {arXiv}
}

@article{lions2001parareal,
  title = {R{\\'e}solution d'EDP par un sch{\\'e}ma en temps {\\guillemotleft}parar{\\'e}el{\\guillemotright}},
  author = {Lions, Jacques-Louis and Maday, Yvon and Turinici, Gabriel},
  journal = {Comptes Rendus de l'Acad{\\'e}mie des Sciences, S{\\'e}rie I},
  volume = {332},
  number = {7},
  pages = {661--668},
  year = {2001}
}
""",
}
"""BibTeX entries by registered name."""
