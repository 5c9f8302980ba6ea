"""Libraries that the tests compare with; their imports warn about things that are not ours to judge."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import statsmodels.api as sm  # noqa: F401
    import tea_tasting as tt  # noqa: F401
    from statsmodels.stats import proportion, weightstats  # noqa: F401
