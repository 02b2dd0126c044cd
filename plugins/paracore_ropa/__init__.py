"""ROPA: adaptive look-ahead, banded Jacobian with damping, curvature correction, residual-driven sparsity."""
