"""Reconstruction: from the bytes of one exchange to the turn that they were. Pure functions and values, no I/O."""

from llmproxy.reconstruct.reconstruction import Reconstruction, api_of
from llmproxy.reconstruct.turn import Api, NotReconstructed, Output, Turn, Usage

__all__ = ["Api", "NotReconstructed", "Output", "Reconstruction", "Turn", "Usage", "api_of"]
