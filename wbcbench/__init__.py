"""wbcbench: multimodal fusion and knowledge distillation of white blood cells, compared on equal terms."""

__version__ = "0.1.0"
