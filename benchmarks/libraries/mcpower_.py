"""mcpower (Rust): whole power simulations, `find_power`, with a new predictor in every data set and as many threads
as it takes. Its tests are its own (t with between-within degrees of freedom)."""

from libraries import THROUGHPUT, Many, in_python

distribution = "mcpower"
needs_compiling = False
own_threads = True
SIMS = 10_000  # data sets of one call


def fit_command(python):
    return None


def load():
    import mcpower  # noqa: F401


def refuses(problem):
    return "it fits only what it has simulated"


def many_command(python):
    return in_python("mcpower", python, THROUGHPUT)


def refuses_many(batch):
    return None if batch.kind == "simulated" else "it fits only what it has simulated"


def ways(batch):
    return ("",)


def simulates(batch, frame, way):
    import mcpower

    ((group, (columns, sd, rho)),) = batch.random.items()
    levels, (_, tested) = frame[group].nunique(), batch.tested
    slopes = " + ".join(columns)
    model = mcpower.MCPower(f"y ~ {tested} + ({slopes}|{group})", family="lme")
    icc = sd[0] ** 2 / (sd[0] ** 2 + batch.sigma**2)
    extra = {}
    if len(columns) > 1:
        extra = {"random_slopes": [columns[1]], "slope_variance": sd[1] ** 2, "slope_intercept_corr": rho}
    model.set_cluster(group, ICC=icc, n_clusters=levels, **extra)
    model.set_effects(f"{tested}={batch.fixed[tested]}")
    model.set_seed(1)

    def run(n, seconds):
        n = min(n, SIMS)
        found = model.find_power(len(frame), n_sims=n, progress_callback=False, verbose=False)
        return Many(n, power=_first(found["power_uncorrected"]))

    return run


def _first(nested):
    while hasattr(nested, "__len__"):
        nested = nested[0]
    return float(nested) / 100 if nested > 1 else float(nested)
