"""One page with the numbers and the pictures of a trained classifier."""

from gncadeq.report.write import write_report

__all__ = ["write_report"]
