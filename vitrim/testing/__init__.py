"""Tests for methods and models that are not vitrim's own: the laws that all of them keep, as functions."""

from .check_method import check_method
from .check_model import MethodOnModel, ModelReport, check_model
from .findings import Finding, MethodReport
from .laws import small_model

__all__ = ["Finding", "MethodOnModel", "MethodReport", "ModelReport", "check_method", "check_model", "small_model"]
