"""Packages to install: those in src/, conf/ as a part of them, and ``thunderhead``, the name beside ``src``."""

from setuptools import find_namespace_packages, setup

packages = find_namespace_packages(include=["src", "src.*"], exclude=["*.__pycache__"])
setup(
    packages=[*packages, "src.conf"],
    package_dir={"src.conf": "conf"},
    package_data={"": ["*.bash", "*.css", "*.html", "*.js"], "src.conf": ["**/*.yaml"]},
    py_modules=["thunderhead"],
)
