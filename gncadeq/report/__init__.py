"""One page with the numbers and the pictures of a trained classifier."""

from gncadeq.report.write import Report, measure_report

__all__ = ["Report", "measure_report"]
