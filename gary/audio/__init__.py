"""Audio as values: samples with their rate, and what can be done to them without a model."""
