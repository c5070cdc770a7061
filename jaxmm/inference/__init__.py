"""Tests and intervals from a fit."""
