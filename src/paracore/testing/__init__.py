"""Tools for those who write strategies, samplers, models and evaluators.

The conformance kit (:func:`run_checks`, :func:`parametrize_with_checks`, the ``check_*`` functions) needs nothing but
paracore; :mod:`paracore.testing.given` has hypothesis strategies and needs the extra ``testing``.
"""

from paracore.testing.checks_evaluators import (
    check_evaluator_counts_calls,
    check_evaluator_drives_a_solve,
    check_evaluator_hands_on_nonfinite,
    check_evaluator_keeps_rows,
    check_evaluator_products,
    check_evaluator_raises_what_the_network_raises,
)
from paracore.testing.checks_facts import (
    check_at_most_n_rounds,
    check_contains_nonfinite,
    check_sequential_at_tolerance_zero,
)
from paracore.testing.checks_independence import (
    check_batch_independent,
    check_causal,
)
from paracore.testing.checks_models import (
    check_model_answers_its_scheme,
    check_model_counts_calls,
    check_model_images,
    check_model_labels_follow_their_samples,
    check_model_outputs,
    check_model_refuses_what_it_lacks,
    check_model_rows_are_independent,
)
from paracore.testing.checks_state import (
    check_deterministic,
    check_state_bounded,
    check_state_round_trips,
    check_stateless,
)
from paracore.testing.checks_static import check_documented, check_immutable_record
from paracore.testing.checks_stopping import (
    check_accepts_what_is_exact,
    check_refuses_what_is_far,
    check_size_independent,
    check_tolerance_is_kept,
    check_tolerance_is_monotone,
    check_unit_of_the_state,
)
from paracore.testing.checks_strategies import (
    check_never_mutates,
    check_repeatable_calls,
    check_returns_what_it_must,
    check_runs_on_every_scheme,
    check_stays_at_the_solution,
)
from paracore.testing.checks_updates import (
    check_damping_enters,
    check_factors_are_not_negative,
    check_local_is_linear,
    check_null_does_nothing,
    check_residual_is_zero_at_the_solution,
    check_response_within_the_truth,
    check_zero_residual_gives_zero_update,
)
from paracore.testing.checks_use import (
    check_converges_on_linear,
    check_dtype_kept,
    check_runs_at_the_edges,
)
from paracore.testing.checks_windows import (
    check_fill_keeps_constants,
    check_guesses_are_near,
    check_guesses_follow_a_trend,
    check_selects_within_the_width,
)
from paracore.testing.drive import CheckFailure, drive
from paracore.testing.kit import Outcome, Report, checks_for, parametrize_with_checks, run_checks
from paracore.testing.problems import Case, make_case, random_case
from paracore.testing.subject import Subject, subject_of

__all__ = [
    "Case",
    "CheckFailure",
    "Outcome",
    "Report",
    "Subject",
    "check_accepts_what_is_exact",
    "check_at_most_n_rounds",
    "check_batch_independent",
    "check_causal",
    "check_contains_nonfinite",
    "check_converges_on_linear",
    "check_damping_enters",
    "check_deterministic",
    "check_documented",
    "check_dtype_kept",
    "check_evaluator_counts_calls",
    "check_evaluator_drives_a_solve",
    "check_evaluator_hands_on_nonfinite",
    "check_evaluator_keeps_rows",
    "check_evaluator_products",
    "check_evaluator_raises_what_the_network_raises",
    "check_factors_are_not_negative",
    "check_fill_keeps_constants",
    "check_guesses_are_near",
    "check_guesses_follow_a_trend",
    "check_immutable_record",
    "check_local_is_linear",
    "check_model_answers_its_scheme",
    "check_model_counts_calls",
    "check_model_images",
    "check_model_labels_follow_their_samples",
    "check_model_outputs",
    "check_model_refuses_what_it_lacks",
    "check_model_rows_are_independent",
    "check_never_mutates",
    "check_null_does_nothing",
    "check_refuses_what_is_far",
    "check_repeatable_calls",
    "check_residual_is_zero_at_the_solution",
    "check_response_within_the_truth",
    "check_returns_what_it_must",
    "check_runs_at_the_edges",
    "check_runs_on_every_scheme",
    "check_selects_within_the_width",
    "check_sequential_at_tolerance_zero",
    "check_size_independent",
    "check_state_bounded",
    "check_state_round_trips",
    "check_stateless",
    "check_stays_at_the_solution",
    "check_tolerance_is_kept",
    "check_tolerance_is_monotone",
    "check_unit_of_the_state",
    "check_zero_residual_gives_zero_update",
    "checks_for",
    "drive",
    "make_case",
    "parametrize_with_checks",
    "random_case",
    "run_checks",
    "subject_of",
]
