"""Tests for methods that are not vitrim's own: the laws that every method keeps, as one function."""

from .check_method import Finding, MethodReport, check_method
from .laws import small_model

__all__ = ["Finding", "MethodReport", "check_method", "small_model"]
