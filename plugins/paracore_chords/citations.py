"""What to cite."""

__all__ = ["CITATIONS"]

CITATIONS = {
    "chords": """@inproceedings{han2025chords,
  title = {{CHORDS}: Diffusion Sampling Accelerator with Multi-core Hierarchical {ODE} Solvers},
  author = {Han, Jiaqi and Ye, Haotian and Li, Puheng and Xu, Minkai and Zou, James and Ermon, Stefano},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  pages = {19386--19395},
  year = {2025},
  eprint = {2507.15260},
  archivePrefix = {arXiv}
}
""",
}
"""BibTeX entries by registered name."""
