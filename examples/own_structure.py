"""A covariance structure of one's own: effects at irregular times, whose correlation falls with the time between them.

    python examples/own_structure.py

``factor`` maps θ to a root of the covariance matrix D; everything else follows from it: gradients and Hessians,
starts, VarCorr, BLUPs, batches.
"""

import argparse
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

import jaxmm as mm
from jaxmm.covariance import Covariance


@dataclass(frozen=True)
class Exponential(Covariance):
    """Cor(b_i, b_j) = exp(-κ |t_i - t_j|) with κ = exp(θ_1), one standard deviation θ_0; ``at`` the times (q,)."""

    name = "exponential"
    num_params = 2

    def factor(self, theta, at=None):
        gaps = jnp.abs(at[:, None] - at)
        return theta[0] * jnp.linalg.cholesky(jnp.exp(-jnp.exp(theta[1]) * gaps))


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    times = np.array([0.0, 0.5, 2.0, 3.0, 7.0])  # of the visits of 60 patients, two measurements each
    rng = np.random.default_rng(1)
    D = 4.0 * np.exp(-0.4 * np.abs(times[:, None] - times))
    patient, visit = np.repeat(np.arange(60), 10), np.tile(np.repeat(np.arange(5), 2), 60)
    b = rng.multivariate_normal(np.zeros(5), D, 60)
    y = 10 + 0.3 * times[visit] + b[patient, visit] + rng.normal(size=600)

    X, Z = np.column_stack([np.ones(600), times[visit]]), np.eye(5)[visit]
    term = mm.Term(Z, patient, "patient", [f"day {t:g}" for t in times], Exponential(5), at=times)
    fit = mm.Model.from_arrays(y, X, [term], names=["(Intercept)", "time"]).fit()
    print(fit.summary())

    fitted = fit.varcorr().blocks[0].cov
    print(f"\nstandard deviation {np.sqrt(fitted[0, 0]):.2f} (drawn with 2.00)")
    print(f"correlation a day apart {(fitted[0, 1] / fitted[0, 0]) ** 2:.2f} (drawn with {np.exp(-0.4):.2f})")


if __name__ == "__main__":
    main()
