"""Private synthetic images at scale: retrieval augmented private diffusion (RAPID) on Ray."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rapid-dist")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
