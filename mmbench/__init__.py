"""mmbench: a benchmark suite for multimodal learning with missing modalities."""
