"""Fine-tuning: the two stages, their losses, and GaLore."""
